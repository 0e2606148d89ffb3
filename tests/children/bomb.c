/* Processes that never stop forking; they end by themselves after SECONDS.
 *
 * bomb tree LIMIT SECONDS    every process forks, again and again, some in sessions of their own;
 *                            the kernel holds the user at LIMIT (RLIMIT_NPROC; not as root)
 * bomb chain WIDTH SECONDS   WIDTH lines of descent, each process forking its successor and exiting
 *
 * Writes "ready" when it is at full strength.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static time_t last;

static int over(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec >= last;
}

static void ready(void) {
    if (write(1, "ready\n", 6) != 6)
        _exit(1);
}

static void tree(rlim_t limit) {
    atomic_int *full = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct rlimit bound = {limit, limit};
    if (geteuid() == 0 || full == MAP_FAILED || setrlimit(RLIMIT_NPROC, &bound) != 0)
        _exit(2);
    while (!over()) {
        pid_t pid = fork();
        if (pid == 0 && getpid() % 2)
            setsid();
        if (pid < 0) {
            if (atomic_exchange(full, 1) == 0)
                ready();
            usleep(1000);
        }
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}

static void link_of_chain(void) {
    for (unsigned generation = 0; !over(); generation++) {
        pid_t pid = fork();
        if (pid > 0)
            _exit(0);
        if (pid < 0)
            usleep(1000);
        if (generation % 16 == 0)
            setsid();
    }
    _exit(0);
}

int main(int argc, char **argv) {
    struct timespec now;
    if (argc != 4)
        return 2;
    clock_gettime(CLOCK_MONOTONIC, &now);
    last = now.tv_sec + atoi(argv[3]);
    if (strcmp(argv[1], "tree") == 0) {
        tree(atoi(argv[2]));
        return 0;
    }
    for (int width = atoi(argv[2]); width > 0; width--)
        if (fork() == 0)
            link_of_chain();
    ready();
    while (!over())
        usleep(10000);
    return 0;
}
