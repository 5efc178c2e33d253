// Runs a program to which the kernel refuses one system call, as a container's seccomp profile does:
//   refuse SYSTEM_CALL ERRNO PROGRAM ARGUMENT...

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
  const char *name;
  int number;
} CALLS[] = {
    {"memfd_create", SYS_memfd_create}, {"fallocate", SYS_fallocate}, {"fstatfs", SYS_fstatfs}, {"fchmod", SYS_fchmod}};
static const struct {
  const char *name;
  int number;
} ERRORS[] = {{"EPERM", EPERM}, {"ENOSYS", ENOSYS}, {"EMFILE", EMFILE}};

#define NUMBER_OF(name_, table)                                                   \
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)                       \
    if (strcmp(name_, table[i].name) == 0) return table[i].number;                \
  return -1

static int call_of(const char *name) { NUMBER_OF(name, CALLS); }
static int error_of(const char *name) { NUMBER_OF(name, ERRORS); }

int main(int argc, char **argv) {
  int call = argc < 4 ? -1 : call_of(argv[1]);
  int error = argc < 4 ? -1 : error_of(argv[2]);
  if (call < 0 || error < 0) {
    fprintf(stderr, "usage: refuse SYSTEM_CALL ERRNO PROGRAM ARGUMENT...\n");
    return 64;
  }
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    perror("prctl");
    return 77;
  }
  execvp(argv[3], argv + 3);
  perror(argv[3]);
  return 127;
}
