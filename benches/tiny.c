/* A child without a C library: with it, what is measured is the starting and collecting, not the child.
 * Writes one line if it has an argument. */
static long call(long number, long a, long b, long c) {
    long answer;
#if defined(__x86_64__)
    __asm__ volatile("syscall" : "=a"(answer) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    answer = x0;
#endif
    return answer;
}

#if defined(__x86_64__)
enum { WRITE = 1, EXIT = 60 };
__asm__(".globl _start\n_start: mov (%rsp), %rdi\ncall run");
#elif defined(__aarch64__)
enum { WRITE = 64, EXIT = 93 };
__asm__(".globl _start\n_start: ldr x0, [sp]\nbl run");
#endif

void run(long count) {
    if (count > 1) call(WRITE, 1, (long)"one line of output\n", 19);
    call(EXIT, 0, 0, 0);
}
