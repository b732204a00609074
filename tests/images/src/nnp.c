/* Installed setuid root: shows whether that still has an effect. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("Effective uid: %d\n", geteuid());
    return 0;
}
