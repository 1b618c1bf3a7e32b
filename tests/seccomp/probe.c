/*
 * Says what becomes of each system call here: refused (EPERM), not there (ENOSYS), killed for (SIGSYS), or anything
 * else, which means that it got through to the kernel. It knows nothing of filters.
 *
 * Each call is made in a process of its own, with arguments that do nothing: zeroes, or flags on their own. What does
 * not come back within a moment got through. Output: "CONVENTION NUMBER [ARGUMENT] VERDICT" per line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAST 600
#define X32_BIT 0x40000000L

typedef long call_function(long number, long first, long second);

static long native(long number, long first, long second)
{
	long answer = syscall(number, first, second, 0L, 0L, 0L, 0L);
	return answer == -1 ? -errno : answer;
}

#ifdef __x86_64__
static long x32(long number, long first, long second)
{
	return native(number | X32_BIT, first, second);
}

/* The 32-bit entry of the kernel, which a 64-bit program can use as well. */
static long x86(long number, long first, long second)
{
	long answer = number;
	__asm__ volatile("push %%rbp\n\txor %%ebp, %%ebp\n\tint $0x80\n\tpop %%rbp"
			 : "+a"(answer)
			 : "b"(first), "c"(second), "d"(0L), "S"(0L), "D"(0L)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	return (int)answer;
}
#endif

static const char *verdict(call_function *call, long number, long first, long second)
{
	int report[2];
	if (pipe(report) < 0)
		return "cannot be tried";
	pid_t child = fork();
	if (child == 0) {
		struct itimerval moment = { .it_value = { .tv_usec = 200000 } };
		setitimer(ITIMER_REAL, &moment, NULL);
		pid_t self = getpid();
		long answer = call(number, first, second);
		/* A copy made by the call itself has nothing to say. */
		if (syscall(SYS_getpid) == self)
			(void)!write(report[1], &answer, sizeof answer);
		syscall(SYS_exit, 0);
	}
	close(report[1]);
	int status = 0;
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
		kill(child, SIGKILL); /* it had itself traced */
	long answer = 0;
	if (read(report[0], &answer, sizeof answer) != sizeof answer)
		answer = 0;
	close(report[0]);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		return "SIGSYS";
	return answer == -EPERM ? "EPERM" : answer == -ENOSYS ? "ENOSYS" : "through";
}

/* Waits for a disk, or shares this program's memory with a copy. */
static int is_left_out(const char *convention, long number)
{
	static const long of_x86[] = { 36, 190, 344 };
#ifdef __x86_64__
	static const long of_native[] = { 58, 162, 306 };
#else
	static const long of_native[] = { 81, 267 };
#endif
	const long *list = strcmp(convention, "x86") ? of_native : of_x86;
	size_t count = strcmp(convention, "x86") ? sizeof of_native / sizeof *of_native : sizeof of_x86 / sizeof *of_x86;
	for (size_t index = 0; index < count; index++)
		if (list[index] == number)
			return 1;
	return 0;
}

static void try(const char *convention, call_function *call, long number, const long *arguments, size_t count)
{
	for (size_t index = 0; index < count; index++)
		printf("%s %ld %#lx %s\n", convention, number, arguments[index],
		       verdict(call, number, arguments[index], 0));
}

static void try_all(const char *convention, call_function *call, long clone, long unshare, long personality,
		    long socket)
{
	/* CLONE_NEWUSER and the other namespaces, one by one, together, and above 32 bits; SIGCHLD alone. */
	static const long namespaces[] = { 0x11,	0x10000000, 0x00020000, 0x02000000,    0x04000000,  0x08000000,
					   0x20000000,	0x40000000, 0x10000011, 0x7e020000,    0x80,	    0x100000011 };
	static const long personalities[] = { 0, 1, 8, 0x20000, 0x20008, 0x40000, 0xffffffff, -1, 0x100000008 };

	for (long number = 0; number <= LAST; number++)
		if (!is_left_out(convention, number))
			printf("%s %ld %s\n", convention, number, verdict(call, number, 0, 0));
	try(convention, call, clone, namespaces, sizeof namespaces / sizeof *namespaces);
	try(convention, call, unshare, namespaces, sizeof namespaces / sizeof *namespaces);
	try(convention, call, personality, personalities, sizeof personalities / sizeof *personalities);
	for (long family = 0; family < 50; family++)
		try(convention, call, socket, &family, 1);
	long far = 40 | 1L << 32;
	try(convention, call, socket, &far, 1);
}

int main(void)
{
	char go;
	int harmless[2];
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	/* The test reads this container's configuration before it lets the probe go on. */
	if (read(0, &go, 1) != 1)
		return 1;
	/* Descriptor 0 is an argument below: fchmod(0, 0) must not meet the host's /dev/null. */
	if (pipe(harmless) < 0 || dup2(harmless[0], 0) < 0)
		return 1;
#ifdef __x86_64__
	try_all("x86_64", native, SYS_clone, SYS_unshare, SYS_personality, SYS_socket);
	try_all("x32", x32, SYS_clone, SYS_unshare, SYS_personality, SYS_socket);
	try_all("x86", x86, 120, 310, 136, 359);
	for (long inner = 0; inner < 30; inner++) {
		try("x86", x86, 102, &inner, 1); /* socketcall */
		try("x86", x86, 117, &inner, 1); /* ipc */
	}
#else
	try_all("native", native, SYS_clone, SYS_unshare, SYS_personality, SYS_socket);
#endif
	return fflush(stdout) ? 1 : 0;
}
