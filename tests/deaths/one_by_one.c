/*
 * A server that answers one client after the other, so that whoever connects meanwhile waits in the queue of its listener, and
 * that is asked to end between two of them alone: it accepts nobody whom it does not answer. It takes its time to begin and to
 * end, so that there is one when nobody is accepted.
 *
 *     one_by_one PORT STATUS WORD
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BEGINS_US 100000
#define ENDS_US 200000

static volatile sig_atomic_t is_over;

static void end(int signal)
{
    (void)signal;
    is_over = 1;
}

static void serve(int client, const char *status, const char *word)
{
    char text[4096];
    size_t length = 0;
    ssize_t count;

    do {
        count = read(client, text + length, sizeof text - 1 - length);
        if (count > 0)
            length += (size_t)count;
        text[length] = 0;
    } while (count > 0 && length < sizeof text - 1 && !strstr(text, "\r\n\r\n"));
    if (strstr(text, "\r\n\r\n"))
        dprintf(client, "HTTP/1.0 %s OK\r\nContent-Length: %zu\r\n\r\n%s\n", status, strlen(word) + 1, word);
    close(client);
}

int main(int count, char **words)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    struct sigaction on_term = { .sa_handler = end };
    sigset_t term, before;
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    if (count != 4)
        return 2;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &before);
    sigaction(SIGTERM, &on_term, NULL);
    address.sin_port = htons((unsigned short)atoi(words[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) {
        perror("bind");
        return 1;
    }
    usleep(BEGINS_US);
    if (listen(listener, 512)) {
        perror("listen");
        return 1;
    }
    while (!is_over) {
        struct pollfd waits = { .fd = listener, .events = POLLIN };

        /* The signal comes here or nowhere. */
        if (ppoll(&waits, 1, NULL, &before) == 1) {
            int client = accept(listener, NULL, NULL);

            if (client >= 0)
                serve(client, words[2], words[3]);
        }
    }
    usleep(ENDS_US);
    return 0;
}
