/*
 * A web server that answers every request with one page, standing in for nginx and
 * httpd: it shows nginx's process title, writes its pid file, and prints its name.
 *
 *   web NAME PORT
 */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char PAGE[] = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
                           "Content-Length: 13\r\nConnection: close\r\n\r\n<p>hello</p>\n";

/* A namespace's first process ignores what it does not handle. */
static void leave(int signal)
{
    (void)signal;
    _exit(0);
}

static int listen_on(int port)
{
    int on = 1, off = 0, server = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (server >= 0) {
        setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        setsockopt(server, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        if (bind(server, (void *)&six, sizeof six) == 0 && listen(server, 16) == 0)
            return server;
        close(server);
    }
    server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(server, (void *)&four, sizeof four) || listen(server, 16)) {
        perror("listen");
        exit(1);
    }
    return server;
}

int main(int argc, char **argv)
{
    char title[64], request[4096];
    if (argc == 3) {
        /* Again, with the title in the place of the arguments. */
        snprintf(title, sizeof title, "%s: master process", argv[1]);
        setenv("WEB_PORT", argv[2], 1);
        setenv("WEB_NAME", argv[1], 1);
        execl("/proc/self/exe", title, (char *)NULL);
        perror("exec");
        return 1;
    }
    signal(SIGTERM, leave);
    signal(SIGQUIT, leave);
    signal(SIGINT, leave);
    signal(SIGPIPE, SIG_IGN);

    int server = listen_on(atoi(getenv("WEB_PORT")));
    FILE *pid = fopen("/var/run/nginx.pid", "w");
    if (pid) {
        fprintf(pid, "%d\n", getpid());
        fclose(pid);
    }
    printf("%s: ready\n", getenv("WEB_NAME"));
    fflush(stdout);
    for (;;) {
        int client = accept(server, NULL, NULL);
        if (client < 0)
            continue;
        if (read(client, request, sizeof request) > 0 && write(client, PAGE, sizeof PAGE - 1) > 0) {
            shutdown(client, SHUT_WR);
            while (read(client, request, sizeof request) > 0) {
            }
        }
        close(client);
    }
}
