/*
 * What a start is measured with: prints one line with the monotonic clock in
 * nanoseconds as its first act, then waits.
 *
 *   probe          print and wait for SIGTERM
 *   probe once     print and leave
 *   probe lines N  print N numbered lines and leave with status 7
 *   probe flood N  write N bytes without a newline and leave
 *   probe fds      print the numbers of the open descriptors, from main's first line
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
