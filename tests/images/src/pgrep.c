/* pgrep NAME: pids of the processes whose command contains NAME; 1 when there is none. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int found = 0;
    struct dirent *entry;
    DIR *proc = opendir("/proc");
    if (argc != 2 || !proc)
        return 2;
    while ((entry = readdir(proc))) {
        char path[300], command[64] = "";
        FILE *comm;
        if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
        if (!(comm = fopen(path, "r")))
            continue;
        if (fgets(command, sizeof command, comm) && strstr(command, argv[1])) {
            puts(entry->d_name);
            found = 1;
        }
        fclose(comm);
    }
    return !found;
}
