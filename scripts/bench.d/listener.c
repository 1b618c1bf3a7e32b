// Preloaded into a server, this gives it its port in one of the two ways that are known without opsrun: SO_REUSEPORT set
// before bind(2), or, with LISTENER, the listening socket that it has inherited by that number.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    const char *port = getenv("LISTENER_PORT"), *listener = getenv("LISTENER");
    if (!port || address->sa_family != AF_INET || ntohs(((const struct sockaddr_in *)address)->sin_port) != atoi(port))
        return real(fd, address, length);
    if (listener) {
        // A server that asked for a socket that does not block waits in accept(2) for nobody, and never hears its signal.
        int flags = fcntl(fd, F_GETFL);
        if (dup3(atoi(listener), fd, fcntl(fd, F_GETFD) & FD_CLOEXEC ? O_CLOEXEC : 0) < 0)
            return -1;
        return fcntl(fd, F_SETFL, flags) < 0 ? -1 : 0;
    }
    int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0)
        return -1;
    return real(fd, address, length);
}
