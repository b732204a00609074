/* Does nothing until it is told to stop. */
#include <signal.h>
#include <unistd.h>

static void leave(int signal)
{
    (void)signal;
    _exit(0);
}

int main(void)
{
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    for (;;)
        pause();
}
