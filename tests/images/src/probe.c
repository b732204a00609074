/*
 * What a start is measured with: prints one line with the monotonic clock in
 * nanoseconds as its first act, then waits.
 *
 *   probe          print and wait for SIGTERM
 *   probe once     print and leave
 *   probe lines N  print N numbered lines and leave with status 7
 *   probe flood N  write N bytes without a newline and leave
 *   probe fds      print the numbers of the open descriptors, from main's first line
 *   probe leave F  make file F and take it out of its project in every way there is; print what each of them gave (errno)
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void leave(int signal)
{
    (void)signal;
    _exit(0);
}

static void descriptors(void)
{
    struct dirent *entry;
    DIR *self = opendir("/proc/self/fd");
    while (self && (entry = readdir(self)))
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(self))
            printf("%s ", entry->d_name);
    puts("");
}

static int result(long returned)
{
    return returned < 0 ? errno : 0;
}

/* Sources: linux/fs.h, struct fsxattr and struct file_attr. */
static void leave_project(const char *path)
{
    struct { uint32_t xflags, extsize, nextents, projid, cowextsize; char pad[8]; } none = {0};
    struct { uint64_t xflags; uint32_t extsize, nextents, projid, cowextsize; } same = {0};
    long flags = 0;
    int file = open(path, O_CREAT | O_RDWR, 0600);
    int by_attributes = result(ioctl(file, 0x401c5820, &none));
    int by_flags = result(ioctl(file, 0x40086602, &flags));
    int by_path = result(syscall(469, AT_FDCWD, path, &same, sizeof same, 0));
    printf("%d %d %d\n", by_attributes, by_flags, by_path);
}

int main(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (argc == 3 && !strcmp(argv[1], "lines")) {
        for (long line = 0, last = atol(argv[2]); line < last; line++)
            printf("line %ld\n", line);
        return 7;
    }
    if (argc == 3 && !strcmp(argv[1], "flood")) {
        static char block[65536];
        memset(block, 'x', sizeof block);
        for (long left = atol(argv[2]); left > 0;) {
            long wrote = write(1, block, left < (long)sizeof block ? left : (long)sizeof block);
            if (wrote <= 0)
                return 1;
            left -= wrote;
        }
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "leave")) {
        leave_project(argv[2]);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "fds")) {
        descriptors();
        return 0;
    }
    signal(SIGTERM, leave);
    printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
    fflush(stdout);
    if (argc == 2 && !strcmp(argv[1], "once"))
        return 0;
    for (;;)
        pause();
}
