/* floor COUNT INFLIGHT CAPTURE PROGRAM [ARGUMENT]: the floor of all such loops. vfork + execve + waitid, one thread,
 * INFLIGHT at once; with CAPTURE=1 standard output and error come through a pipe each and are read to their end.
 * Prints microseconds per child, and those of CPU that this process itself took. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct child { pid_t pid; int pipes[2]; };

static double seconds(struct timeval time) { return time.tv_sec + time.tv_usec / 1e6; }

static int start(struct child *child, int capture, char **argv, char **environment) {
    int out[2] = {-1, -1}, err[2] = {-1, -1};
    if (capture && (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))) return -1;
    pid_t pid = vfork();
    if (pid == 0) {
        if (capture) { dup2(out[1], 1); dup2(err[1], 2); }
        execve(argv[0], argv, environment);
        _exit(127);
    }
    if (capture) { close(out[1]); close(err[1]); }
    child->pid = pid;
    child->pipes[0] = out[0];
    child->pipes[1] = err[0];
    return pid < 0 ? -1 : 0;
}

static void finish(struct child *child, int capture) {
    char buffer[65536];
    for (int at = 0; capture && at < 2; at++) {
        while (read(child->pipes[at], buffer, sizeof buffer) > 0) {}
        close(child->pipes[at]);
    }
    child->pid = 0;
}

int main(int argc, char **argv, char **environment) {
    if (argc < 5) return 2;
    int count = atoi(argv[1]), most = atoi(argv[2]), capture = atoi(argv[3]), started = 0, done = 0;
    struct child *children = calloc(most, sizeof *children);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    while (done < count) {
        for (int at = 0; at < most && started < count; at++)
            if (!children[at].pid) {
                if (start(&children[at], capture, argv + 4, environment)) return 1;
                started++;
            }
        siginfo_t info;
        if (waitid(P_ALL, 0, &info, WEXITED)) return 1;
        if (info.si_status) return 1;
        for (int at = 0; at < most; at++)
            if (children[at].pid == info.si_pid) finish(&children[at], capture);
        done++;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    struct rusage self;
    getrusage(RUSAGE_SELF, &self);
    double wall = end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9;
    double own = seconds(self.ru_utime) + seconds(self.ru_stime);
    printf("%.2f %.2f\n", wall / count * 1e6, own / count * 1e6);
    return 0;
}
