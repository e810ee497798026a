/* Controls the clock and the fsyncs of a node by a small shared file that the test writes, and ends the
 * node with the test.
 *
 * Preloaded into the node. Only CLOCK_REALTIME is stepped; the monotonic clock is not affected. fsync and
 * fdatasync can be made to fail or to take longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* As in shim.rs. */
static volatile struct control {
    int64_t clock_step_ns;
    uint64_t fsyncs_to_fail;
    uint64_t fsync_delay_us;
    uint64_t fsyncs;
    uint64_t fsyncs_failed;
    uint64_t fsyncs_delayed;
    uint64_t stepped_clock_reads;
} nothing, *control = &nothing;

/* Ends the process with the thread that started it. The parent is checked after the request, because a
 * parent that has already ended sends no signal. */
static void leash(void) {
    const char *parent = getenv("RIG_PARENT");
    if (!parent) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != atoi(parent)) _exit(1);
    unsetenv("RIG_PARENT");
}

__attribute__((constructor)) static void start(void) {
    leash();
    const char *path = getenv("RIG_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) control = page;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real ? real(clock, out) : (int)syscall(SYS_clock_gettime, clock, out);
    int64_t step = control->clock_step_ns;
    if (result == 0 && step && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec + step;
        out->tv_sec = ns / 1000000000;
        out->tv_nsec = ns % 1000000000;
        __atomic_fetch_add(&control->stepped_clock_reads, 1, __ATOMIC_SEQ_CST);
    }
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* Delays the fsync as configured; returns whether it must fail. */
static int fails(void) {
    __atomic_fetch_add(&control->fsyncs, 1, __ATOMIC_SEQ_CST);
    uint64_t delay = control->fsync_delay_us;
    if (delay) {
        struct timespec left = {(time_t)(delay / 1000000), (long)(delay % 1000000) * 1000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
        __atomic_fetch_add(&control->fsyncs_delayed, 1, __ATOMIC_SEQ_CST);
    }
    uint64_t left = control->fsyncs_to_fail;
    while (left > 0) {
        if (__atomic_compare_exchange_n(&control->fsyncs_to_fail, &left, left - 1, 0,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            __atomic_fetch_add(&control->fsyncs_failed, 1, __ATOMIC_SEQ_CST);
            errno = EIO;
            return 1;
        }
    }
    return 0;
}

int fsync(int fd) { return fails() ? -1 : (int)syscall(SYS_fsync, fd); }

int fdatasync(int fd) { return fails() ? -1 : (int)syscall(SYS_fdatasync, fd); }
