/* The first act is to fork and exit: what a launcher that does not wait does.
 *
 * fork_and_exit stay    the child tells its pid on standard output and stays
 * fork_and_exit short   the child ends after its parent has: an orphan for somebody to reap
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int held[2];
    if (argc > 1 && strcmp(argv[1], "short") == 0) {
        char nothing;
        if (pipe(held) != 0)
            return 1;
        if (fork() != 0)
            return 0;
        close(held[1]);
        if (read(held[0], &nothing, 1) != 0)
            return 2;
        return 3;
    }
    if (fork() != 0)
        return 0;
    char line[32];
    int length = snprintf(line, sizeof line, "%d\n", (int)getpid());
    if (write(1, line, length) != length)
        return 1;
    for (;;)
        pause();
}
