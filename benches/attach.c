/*
 * The kernel's floor of a pod's network: a bare program that makes only the netlink calls that nobody can leave out
 * for the pods that benches/attach.rs asks for. One message makes the pair of interfaces, on the bridge and in the
 * pod's namespace; one datagram brings up lo and eth0 with address and route. With a host port: an element of an
 * nf_tables map, and the hairpin mode of the bridge's port. No leases, no records, no checks; its sockets stay open.
 *
 *   attach FOLDER BRIDGE GATEWAY TABLE    FOLDER/N is the pinned network namespace of pod N; GATEWAY is the bridge's
 *                                         address, of a /16; TABLE has a map "host_ports"
 *
 * It reads and answers lines; all times are nanoseconds:
 *   attach FIRST COUNT PORT    those pods at once, with host ports from PORT on, or with 0 none: the time of all, and
 *                              that of each
 *   detach FIRST COUNT PORT    the time until their namespaces and ports are given up, and until their interfaces are
 *                              gone
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MUST(call) ((call) < 0 ? err(1, "%s", #call) : (void)0)
#define NESTED(kind) ((kind) | NLA_F_NESTED)
#define NFTABLES(kind) (NFNL_SUBSYS_NFTABLES << 8 | (kind))
#define MOST 1024

/* One datagram. */
struct request {
    char bytes[1024];
    size_t used;
    struct nlmsghdr *last;
    /* The message that is answered when it went well. */
    uint32_t acknowledged;
};

struct pod {
    int number, port, netns;
    /* Sockets of the host, of its nf_tables, and of the pod. */
    int host, filter, inside;
    long long begin, end;
};

static const char *folder, *table;
static struct pod pods[MOST];
static pthread_barrier_t together;
static unsigned bridge;
/* As a number of the host's order; pods have the addresses behind it. */
static uint32_t gateway;

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void *grow(struct request *request, const void *bytes, size_t size)
{
    char *place = request->bytes + request->used;
    if (request->used + NLMSG_ALIGN(size) > sizeof request->bytes)
        errx(1, "a request of more than %zu bytes", sizeof request->bytes);
    memcpy(place, bytes, size);
    request->used += NLMSG_ALIGN(size);
    if (request->last)
        request->last->nlmsg_len = request->bytes + request->used - (char *)request->last;
    return place;
}

static void message(struct request *request, int kind, int flags, const void *header, size_t size)
{
    struct nlmsghdr begin = {.nlmsg_type = kind, .nlmsg_flags = NLM_F_REQUEST | flags};
    begin.nlmsg_seq = request->last ? request->last->nlmsg_seq + 1 : 1;
    if (flags & NLM_F_ACK)
        request->acknowledged = begin.nlmsg_seq;
    request->last = NULL;
    request->last = grow(request, &begin, sizeof begin);
    grow(request, header, size);
}

static struct nlattr *put(struct request *request, int kind, const void *value, size_t size)
{
    struct nlattr attribute = {.nla_len = NLA_HDRLEN + size, .nla_type = kind};
    struct nlattr *place = grow(request, &attribute, sizeof attribute);
    if (size)
        grow(request, value, size);
    return place;
}

static void text(struct request *request, int kind, const char *value)
{
    put(request, kind, value, strlen(value) + 1);
}

static void number(struct request *request, int kind, uint32_t value)
{
    put(request, kind, &value, sizeof value);
}

static void end(struct request *request, struct nlattr *nest)
{
    nest->nla_len = request->bytes + request->used - (char *)nest;
}

static void ask(int fd, const struct request *request)
{
    char answer[4096];
    const struct nlmsghdr *head = (void *)answer;
    MUST(send(fd, request->bytes, request->used, 0));
    do {
        MUST(recv(fd, answer, sizeof answer, 0));
        errno = head->nlmsg_type == NLMSG_ERROR ? -((struct nlmsgerr *)NLMSG_DATA(head))->error : EPROTO;
        if (errno)
            err(1, "message %u of a request", head->nlmsg_seq);
    } while (head->nlmsg_seq != request->acknowledged);
}

static int is_there(int fd, const char *name, unsigned *index)
{
    struct ifreq query;
    snprintf(query.ifr_name, sizeof query.ifr_name, "%s", name);
    if (ioctl(fd, SIOCGIFINDEX, &query) < 0) {
        if (errno != ENODEV)
            err(1, "%s", name);
        return 0;
    }
    *index = query.ifr_ifindex;
    return 1;
}

static unsigned index_of(int fd, const char *name)
{
    unsigned index;
    if (!is_there(fd, name, &index))
        errx(1, "no interface %s", name);
    return index;
}

static void host_end(char *name, const struct pod *pod)
{
    snprintf(name, IFNAMSIZ, "pod%d", pod->number);
}

static uint32_t address_of(const struct pod *pod)
{
    return htonl(gateway + 1 + pod->number);
}

static void make_pair(const struct pod *pod)
{
    struct request request = {.used = 0};
    struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, plain = {.ifi_index = 0};
    char name[IFNAMSIZ];
    host_end(name, pod);
    message(&request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &up, sizeof up);
    text(&request, IFLA_IFNAME, name);
    number(&request, IFLA_MASTER, bridge);
    struct nlattr *info = put(&request, NESTED(IFLA_LINKINFO), NULL, 0);
    text(&request, IFLA_INFO_KIND, "veth");
    struct nlattr *data = put(&request, NESTED(IFLA_INFO_DATA), NULL, 0);
    struct nlattr *peer = put(&request, NESTED(VETH_INFO_PEER), NULL, 0);
    grow(&request, &plain, sizeof plain);
    text(&request, IFLA_IFNAME, "eth0");
    number(&request, IFLA_NET_NS_FD, pod->netns);
    end(&request, peer);
    end(&request, data);
    end(&request, info);
    ask(pod->host, &request);
}

static void set_hairpin(const struct pod *pod)
{
    struct request request = {.used = 0};
    char name[IFNAMSIZ], on = 1;
    host_end(name, pod);
    struct ifinfomsg port = {.ifi_family = AF_BRIDGE, .ifi_index = index_of(pod->host, name)};
    message(&request, RTM_SETLINK, NLM_F_ACK, &port, sizeof port);
    struct nlattr *info = put(&request, NESTED(IFLA_PROTINFO), NULL, 0);
    put(&request, IFLA_BRPORT_MODE, &on, sizeof on);
    end(&request, info);
    ask(pod->host, &request);
}

static void furnish(const struct pod *pod)
{
    struct request request = {.used = 0};
    unsigned eth0 = index_of(pod->inside, "eth0");
    struct ifinfomsg lo = {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP}, up = lo;
    struct ifaddrmsg own = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = eth0};
    struct rtmsg route = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN};
    route.rtm_protocol = RTPROT_BOOT;
    route.rtm_type = RTN_UNICAST;
    up.ifi_index = eth0;
    message(&request, RTM_NEWLINK, 0, &lo, sizeof lo);
    message(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &own, sizeof own);
    number(&request, IFA_LOCAL, address_of(pod));
    number(&request, IFA_ADDRESS, address_of(pod));
    message(&request, RTM_NEWLINK, 0, &up, sizeof up);
    message(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &route, sizeof route);
    number(&request, RTA_GATEWAY, htonl(gateway));
    number(&request, RTA_OIF, eth0);
    ask(pod->inside, &request);
}

/* Adds or deletes the element of a pod's host port: protocol and port, to address and port. */
static void change_port(const struct pod *pod, int kind, int flags)
{
    struct request request = {.used = 0};
    struct nfgenmsg batch = {.res_id = htons(NFNL_SUBSYS_NFTABLES)}, ipv4 = {.nfgen_family = AF_INET};
    uint32_t key[] = {htonl(IPPROTO_TCP << 24), htonl(pod->port << 16)}, value[] = {address_of(pod), htonl(8080 << 16)};
    message(&request, NFNL_MSG_BATCH_BEGIN, 0, &batch, sizeof batch);
    message(&request, NFTABLES(kind), flags | NLM_F_ACK, &ipv4, sizeof ipv4);
    text(&request, NFTA_SET_ELEM_LIST_TABLE, table);
    text(&request, NFTA_SET_ELEM_LIST_SET, "host_ports");
    struct nlattr *list = put(&request, NESTED(NFTA_SET_ELEM_LIST_ELEMENTS), NULL, 0);
    struct nlattr *element = put(&request, NESTED(NFTA_LIST_ELEM), NULL, 0);
    struct nlattr *part = put(&request, NESTED(NFTA_SET_ELEM_KEY), NULL, 0);
    put(&request, NFTA_DATA_VALUE, key, sizeof key);
    end(&request, part);
    part = put(&request, NESTED(NFTA_SET_ELEM_DATA), NULL, 0);
    put(&request, NFTA_DATA_VALUE, value, sizeof value);
    end(&request, part);
    end(&request, element);
    end(&request, list);
    message(&request, NFNL_MSG_BATCH_END, 0, &batch, sizeof batch);
    ask(pod->filter, &request);
}

static void attach(struct pod *pod)
{
    pod->begin = now();
    if (pod->port)
        change_port(pod, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
    make_pair(pod);
    if (pod->port)
        set_hairpin(pod);
    furnish(pod);
    pod->end = now();
}

static void *attach_together(void *pod)
{
    pthread_barrier_wait(&together);
    attach(pod);
    return NULL;
}

static int netlink(int protocol)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    MUST(fd);
    return fd;
}

/* What a pod's namespace comes with: a descriptor and a socket in it. */
static void open_pod(struct pod *pod, int own)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%d", folder, pod->number);
    MUST(pod->netns = open(path, O_RDONLY | O_CLOEXEC));
    MUST(setns(pod->netns, CLONE_NEWNET));
    pod->inside = netlink(NETLINK_ROUTE);
    MUST(setns(own, CLONE_NEWNET));
    if (!pod->host) {
        pod->host = netlink(NETLINK_ROUTE);
        pod->filter = netlink(NETLINK_NETFILTER);
    }
}

static void attach_all(int count, int own)
{
    pthread_t threads[MOST];
    long long begin, last = 0;
    for (int which = 0; which < count; which++)
        open_pod(&pods[which], own);
    if (count == 1) {
        attach(&pods[0]);
    } else {
        pthread_barrier_init(&together, NULL, count);
        for (int which = 0; which < count; which++)
            if ((errno = pthread_create(&threads[which], NULL, attach_together, &pods[which])))
                err(1, "a thread");
        for (int which = 0; which < count; which++)
            pthread_join(threads[which], NULL);
    }
    begin = pods[0].begin;
    for (int which = 0; which < count; which++) {
        begin = pods[which].begin < begin ? pods[which].begin : begin;
        last = pods[which].end > last ? pods[which].end : last;
        close(pods[which].netns);
        close(pods[which].inside);
    }
    printf("%lld", last - begin);
    for (int which = 0; which < count; which++)
        printf(" %lld", pods[which].end - pods[which].begin);
    printf("\n");
}

static void detach_all(int count)
{
    struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    char path[512], name[IFNAMSIZ], told[8192];
    int listener = netlink(NETLINK_ROUTE), room = 8 << 20;
    unsigned index;
    MUST(setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room));
    MUST(bind(listener, (void *)&links, sizeof links));
    long long begin = now();
    for (int which = 0; which < count; which++) {
        snprintf(path, sizeof path, "%s/%d", folder, pods[which].number);
        MUST(umount2(path, MNT_DETACH));
        if (pods[which].port)
            change_port(&pods[which], NFT_MSG_DELSETELEM, 0);
    }
    long long returned = now();
    for (int which = 0; which < count; which++) {
        host_end(name, &pods[which]);
        while (is_there(listener, name, &index))
            do
                MUST(recv(listener, told, sizeof told, 0));
            while (((struct nlmsghdr *)told)->nlmsg_type != RTM_DELLINK);
    }
    printf("%lld %lld\n", returned - begin, now() - begin);
    close(listener);
}

int main(int argc, char **argv)
{
    char line[128], what[16];
    int first, count, port, own;
    if (argc != 5)
        errx(2, "usage: attach FOLDER BRIDGE GATEWAY TABLE");
    folder = argv[1];
    gateway = ntohl(inet_addr(argv[3]));
    table = argv[4];
    MUST(own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!(bridge = if_nametoindex(argv[2])))
        err(1, "%s", argv[2]);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15s %d %d %d", what, &first, &count, &port) != 4 || count < 1 || count > MOST)
            errx(2, "no request: %s", line);
        for (int which = 0; which < count; which++) {
            pods[which].number = first + which;
            pods[which].port = port ? port + which : 0;
        }
        if (!strcmp(what, "attach"))
            attach_all(count, own);
        else
            detach_all(count);
        fflush(stdout);
    }
    return 0;
}
