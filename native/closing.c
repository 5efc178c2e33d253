#include "closing.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "receiving.h"
#include "uv_abi.h"

// Values of the kernel's ABI, which older headers lack.
enum {
  GET_SEALS = 1034,
  SEAL_GROW = 0x4,
};

struct job {
  struct job *next;
  int fd;  // -1: unmap
  void *address;
  size_t byte_length;
};

// Threads are created when all others are busy, and stay. What waits behind blocked closes stays open.
struct lane {
  pthread_mutex_t lock;
  pthread_cond_t has_job;
  struct job *first, *last;
  int threads, idle, threads_max;
};

// Process-wide, like the descriptors themselves. The library is linked to stay loaded (-z nodelete), because these
// threads outlive the environment that started them.
static struct lane memory = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, NULL, 0, 0, 1};
static struct lane others = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, NULL, 0, 0, 64};

static atomic_int under_way = 0;

int closes_under_way(void) { return atomic_load(&under_way); }

static void work(const struct job *job) {
  if (job->fd >= 0) {
    close(job->fd);
  } else {
    munmap(job->address, job->byte_length);
  }
}

static void run_lane(void *data) {
  struct lane *lane = data;
  pthread_mutex_lock(&lane->lock);
  for (;;) {
    while (lane->first == NULL) {
      lane->idle++;
      pthread_cond_wait(&lane->has_job, &lane->lock);
      lane->idle--;
    }
    struct job *job = lane->first;
    lane->first = job->next;
    if (lane->first == NULL) lane->last = NULL;
    pthread_mutex_unlock(&lane->lock);
    work(job);
    free(job);
    atomic_fetch_sub(&under_way, 1);
    pthread_mutex_lock(&lane->lock);
  }
}

// libuv creates the thread, because pthread_create is newer than GLIBC_2.17 if linked on a recent system.
static bool start_thread(struct lane *lane) {
  static const uv_thread_options_t options = {.flags = UV_THREAD_HAS_STACK_SIZE, .stack_size = 64 << 10};
  uv_thread_t thread;
  sigset_t all, before;
  // The thread inherits the mask, so that the process's signals go to Node's threads.
  sigfillset(&all);
  bool masked = sigprocmask(SIG_SETMASK, &all, &before) == 0;
  bool started = uv_thread_create_ex(&thread, &options, run_lane, lane) == 0;
  if (masked) sigprocmask(SIG_SETMASK, &before, NULL);
  return started;
}

// If the lane has no thread and none can be started, the job waits for the next attempt.
static void enqueue(struct lane *lane, struct job *job) {
  atomic_fetch_add(&under_way, 1);
  pthread_mutex_lock(&lane->lock);
  if (lane->last != NULL) {
    lane->last->next = job;
  } else {
    lane->first = job;
  }
  lane->last = job;
  if (lane->idle == 0 && lane->threads < lane->threads_max && start_thread(lane)) lane->threads++;
  pthread_cond_signal(&lane->has_job);
  pthread_mutex_unlock(&lane->lock);
}

static struct job *make_job(int fd, void *address, size_t byte_length) {
  struct job *job = malloc(sizeof *job);
  if (job != NULL) *job = (struct job){.fd = fd, .address = address, .byte_length = byte_length};
  return job;
}

bool is_memory_file(int fd, int *seals) {
  *seals = fcntl(fd, GET_SEALS);
  return *seals >= 0;
}

// Nobody can make the file larger before it is closed.
static bool stays_small(int fd, int seals) {
  struct stat status;
  return (seals & SEAL_GROW) != 0 && syscall(SYS_fstat, fd, &status) == 0 && status.st_size <= LARGE_FILE_BYTES;
}

static bool is_shut_down(int fd) {
  struct pollfd state = {.fd = fd, .events = POLLRDHUP};
  return poll(&state, 1, 0) > 0 && (state.revents & (POLLHUP | POLLRDHUP)) != 0;
}

// Refuses those who wait to be accepted. Returns false if some may be left.
static bool empty_backlog(int fd) {
  if (shutdown(fd, SHUT_RDWR) != 0) return false;
  for (;;) {
    int accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    // A listener that is shut down and has nobody waiting is EINVAL.
    if (accepted < 0 && errno != EINTR) return errno == EINVAL;
    if (accepted < 0) continue;
    deliver_in_line(accepted);
    shutdown(accepted, SHUT_RDWR);
    close_apart(accepted, false);
  }
}

// Whether something that a peer sent may be queued in the socket. False if it is no socket.
static bool may_hold_descriptors(int fd) {
  int accepts = 0;
  socklen_t length = sizeof accepts;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &length) != 0) return false;
  if (accepts != 0) return !empty_backlog(fd);
  if (refuses_descriptors(fd)) return false;
  // As long as it is not shut down, more may arrive.
  return !is_shut_down(fd) || !is_drained(fd);
}

bool close_apart(int fd, bool foreign) {
  int seals;
  struct lane *lane = NULL;
  if (is_memory_file(fd, &seals)) {
    if (!stays_small(fd, seals)) lane = &memory;
  } else if (foreign) {
    lane = &others;
    // Spares the thread the wait that is easiest to cause. A sender that still has the socket can undo it.
    static const struct linger off = {.l_onoff = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
  } else if (may_hold_descriptors(fd)) {
    lane = &others;
  }
  struct job *job = lane == NULL ? NULL : make_job(fd, NULL, 0);
  if (job != NULL) {
    enqueue(lane, job);
    return true;
  }
  // Linux has closed it even if interrupted. A second close could hit a descriptor that another thread has just got.
  return close(fd) == 0 || errno == EINTR;
}

void unmap_apart(void *address, size_t byte_length) {
  struct job *job = make_job(-1, address, byte_length);
  if (job != NULL) {
    enqueue(&memory, job);
  } else {
    munmap(address, byte_length);
  }
}
