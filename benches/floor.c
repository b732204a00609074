/*
 * The kernel's floor of a container start: a bare program that makes only the system calls that nobody can leave out for the
 * container that benches/start.rs asks for: cgroups with limits, namespaces, an overlay, the mounts, pivot_root, masked and
 * read-only paths, capabilities, a seccomp filter, execve. No parsing, no records, no checks, one fork.
 *
 *   floor LAYER FOLDER CGROUP FILTER    LAYER has /bin/probe; CGROUP exists in each hierarchy; FILTER is a BPF program
 *
 * For each line read it starts `/bin/probe once` and prints two times in nanoseconds: to the workload's first instruction, and
 * to its end. What a round made is removed after the clock has stopped.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(call) ((call) < 0 ? err(1, "%s", #call) : (void)0)
#define CGROUPS "/sys/fs/cgroup"
#define CGROUP2_MAGIC 0x63677270
#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char *const masked[] = {"proc/asound", "proc/acpi", "proc/kcore", "proc/keys", "proc/latency_stats",
                                     "proc/timer_list", "proc/sched_debug", "sys/firmware"};
static const char *const readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
static const struct { const char *path; int major, minor; } devices[] = {
    {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/tty", 5, 0}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}};
static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
                                       {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}, {"/proc/kcore", "dev/core"}};
/* CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP */
static const uint64_t capabilities = 0xa80425fb;

static char hierarchies[16][64], upper[200], work[200], root[200];
/* Of the root: a cgroup without them takes no process. */
static char cpus[64], mems[64];
static int count, is_v2;
static struct sock_fprog filter;
static char overlay[2048];

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Is no error where the kernel has no such file. */
static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, text, strlen(text)) < 0)
        err(1, "%s", path);
    if (fd >= 0)
        close(fd);
}

static void find_hierarchies(void)
{
    struct statfs system;
    MUST(statfs(CGROUPS, &system));
    if (system.f_type == CGROUP2_MAGIC) {
        is_v2 = 1;
        strcpy(hierarchies[count++], "");
        return;
    }
    DIR *all = opendir(CGROUPS);
    struct dirent *entry;
    while (all && (entry = readdir(all)))
        if (entry->d_name[0] != '.' && entry->d_type == DT_DIR && strcmp(entry->d_name, "unified") && count < 16)
            snprintf(hierarchies[count++], 64, "%.63s", entry->d_name);
    closedir(all);
}

static void cgroup_file(char *path, int which, const char *cgroup, const char *file)
{
    snprintf(path, 512, CGROUPS "/%s/%s/floor/%s", hierarchies[which], cgroup, file);
}

static void make_cgroups(const char *cgroup)
{
    char path[512];
    for (int which = 0; which < count; which++) {
        cgroup_file(path, which, cgroup, "");
        MUST(mkdir(path, 0755));
        if (!strcmp(hierarchies[which], "cpuset")) {
            cgroup_file(path, which, cgroup, "cpuset.cpus");
            put(path, cpus);
            cgroup_file(path, which, cgroup, "cpuset.mems");
            put(path, mems);
        }
        cgroup_file(path, which, cgroup, is_v2 ? "cpu.weight" : "cpu.shares");
        put(path, is_v2 ? "39" : "1024");
        cgroup_file(path, which, cgroup, "devices.deny");
        put(path, "a");
        for (size_t device = 0; device < COUNT(devices); device++) {
            char rule[64];
            snprintf(rule, sizeof rule, "c %d:%d rwm", devices[device].major, devices[device].minor);
            cgroup_file(path, which, cgroup, "devices.allow");
            put(path, rule);
        }
    }
}

static void get(const char *path, char *text)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, text, 63) < 0)
        err(1, "%s", path);
    if (fd >= 0)
        close(fd);
}

/* The parent of all that we make may be new. */
static void fill_cpuset(const char *cgroup)
{
    char path[512];
    get(CGROUPS "/cpuset/cpuset.cpus", cpus);
    get(CGROUPS "/cpuset/cpuset.mems", mems);
    snprintf(path, sizeof path, CGROUPS "/cpuset/%s/cpuset.cpus", cgroup);
    put(path, cpus);
    snprintf(path, sizeof path, CGROUPS "/cpuset/%s/cpuset.mems", cgroup);
    put(path, mems);
}

static void system_at(const char *kind, const char *place, unsigned long flags, const char *options)
{
    MUST(mount(kind, place, kind, MS_NOSUID | flags, options));
}

static void mounts(const char *cgroup)
{
    char path[512], place[512];
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("overlay", root, "overlay", 0, overlay));
    MUST(chdir(root));
    mkdir("proc", 0755), mkdir("dev", 0755), mkdir("sys", 0755);
    system_at("proc", "proc", MS_NODEV | MS_NOEXEC, NULL);
    system_at("tmpfs", "dev", MS_STRICTATIME, "mode=755,size=65536k");
    mkdir("dev/pts", 0755), mkdir("dev/shm", 0755), mkdir("dev/mqueue", 0755);
    system_at("devpts", "dev/pts", MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    system_at("tmpfs", "dev/shm", MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k");
    system_at("mqueue", "dev/mqueue", MS_NODEV | MS_NOEXEC, NULL);
    system_at("sysfs", "sys", MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL);
    for (size_t device = 0; device < COUNT(devices); device++)
        MUST(mknod(devices[device].path, S_IFCHR | 0666, makedev(devices[device].major, devices[device].minor)));
    for (size_t link = 0; link < COUNT(links); link++)
        MUST(symlink(links[link][0], links[link][1]));
    if (!is_v2)
        system_at("tmpfs", "sys/fs/cgroup", MS_NODEV | MS_NOEXEC, "mode=755,size=64k");
    for (int which = 0; which < count; which++) {
        snprintf(place, sizeof place, "sys/fs/cgroup/%s", hierarchies[which]);
        if (!is_v2)
            MUST(mkdir(place, 0755));
        cgroup_file(path, which, cgroup, "");
        MUST(mount(path, place, NULL, MS_BIND, NULL));
        MUST(mount(NULL, place, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    }
}

static void hide(void)
{
    struct stat file;
    for (size_t which = 0; which < COUNT(masked); which++)
        if (!stat(masked[which], &file)) {
            if (S_ISDIR(file.st_mode))
                MUST(mount("tmpfs", masked[which], "tmpfs", MS_RDONLY, NULL));
            else
                MUST(mount("dev/null", masked[which], NULL, MS_BIND, NULL));
        }
    for (size_t which = 0; which < COUNT(readonly); which++)
        if (!mount(readonly[which], readonly[which], NULL, MS_BIND | MS_REC, NULL))
            MUST(mount(NULL, readonly[which], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

static void confine(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{capabilities, capabilities, 0}, {0, 0, 0}};
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++)
        if (!(capabilities >> capability & 1) && prctl(PR_CAPBSET_READ, capability) == 1)
            MUST(prctl(PR_CAPBSET_DROP, capability));
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
    MUST(syscall(SYS_capset, &header, sets));
}

static void child(const char *cgroup, int output)
{
    char path[512];
    char *const arguments[] = {"/bin/probe", "once", NULL}, *const environment[] = {"PATH=/bin", "HOME=/root", NULL};
    for (int which = 0; which < count && !is_v2; which++) {
        cgroup_file(path, which, cgroup, "tasks");
        put(path, "0");
    }
    setsid();
    mounts(cgroup);
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(umount2(".", MNT_DETACH));
    MUST(chdir("/"));
    hide();
    MUST(sethostname("floor", 5));
    MUST(dup2(output, 1));
    confine();
    execve(arguments[0], arguments, environment);
    err(1, "execve");
}

static void start(const char *cgroup)
{
    char path[512], stamp[64] = "";
    int out[2], into = -1;
    long long begin = now();
    make_cgroups(cgroup);
    MUST(mkdir(upper, 0755));
    MUST(mkdir(work, 0755));
    MUST(pipe2(out, O_CLOEXEC));
    struct clone_args arguments = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS, .exit_signal = SIGCHLD};
    if (is_v2) {
        cgroup_file(path, 0, cgroup, "");
        MUST(into = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
        arguments.flags |= CLONE_INTO_CGROUP | CLONE_NEWCGROUP;
        arguments.cgroup = into;
    }
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    MUST(pid);
    if (pid == 0)
        child(cgroup, out[1]);
    close(out[1]);
    long size = read(out[0], stamp, sizeof stamp - 1);
    waitpid(pid, NULL, 0);
    long long end = now();
    if (size <= 0)
        errx(1, "no stamp");
    printf("%lld %lld\n", atoll(stamp) - begin, end - begin);
    fflush(stdout);
    close(out[0]);
    if (into >= 0)
        close(into);
    for (int which = 0; which < count; which++) {
        cgroup_file(path, which, cgroup, "");
        MUST(rmdir(path));
    }
    snprintf(path, sizeof path, "rm -rf %s %s", upper, work);
    MUST(system(path));
}

int main(int argc, char **argv)
{
    static struct sock_filter program[4096];
    char line[64];
    if (argc != 5)
        errx(2, "usage: floor LAYER FOLDER CGROUP FILTER");
    int fd = open(argv[4], O_RDONLY | O_CLOEXEC);
    long size = read(fd, program, sizeof program);
    MUST(size);
    filter.len = size / sizeof *program;
    filter.filter = program;
    snprintf(upper, sizeof upper, "%s/upper", argv[2]);
    snprintf(work, sizeof work, "%s/work", argv[2]);
    snprintf(root, sizeof root, "%s/root", argv[2]);
    snprintf(overlay, sizeof overlay, "lowerdir=%s,upperdir=%s,workdir=%s", argv[1], upper, work);
    MUST(mkdir(root, 0755));
    find_hierarchies();
    fill_cpuset(argv[3]);
    while (fgets(line, sizeof line, stdin))
        start(argv[3]);
    return 0;
}
