// datagrams PORT: takes datagrams on a port of 127.0.0.1 that others may take as well, for ever.
#include <arpa/inet.h>
#include <err.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words) {
    int it = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (count != 2 || it < 0 || setsockopt(it, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on)) err(1, "socket");
    address.sin_port = htons((unsigned short)atoi(words[1]));
    if (bind(it, (struct sockaddr *)&address, sizeof address)) err(1, "bind");
    for (;;) pause();
}
