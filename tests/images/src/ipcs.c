/* ipcs -m: the System V shared memory segments of this IPC namespace. */
#include <stdio.h>

int main(void)
{
    char line[512];
    FILE *segments = fopen("/proc/sysvipc/shm", "r");
    if (!segments) {
        perror("/proc/sysvipc/shm");
        return 1;
    }
    puts("key shmid");
    /* The first line names the columns. */
    if (!fgets(line, sizeof line, segments))
        return 1;
    while (fgets(line, sizeof line, segments)) {
        long key, id;
        if (sscanf(line, "%ld %ld", &key, &id) == 2)
            printf("0x%08lx %ld\n", key, id);
    }
    return 0;
}
