// Waits in the kernel, for threads that have chosen to block. Nothing of their environment runs meanwhile.

#include "arguments.h"
#include "errors.h"
#include "functions.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <time.h>

enum { READABLE = 1, HUNG_UP = 2 };

static const long NANOS_PER_SECOND = 1000000000L;
static const double MILLIS_PER_SECOND = 1e3, NANOS_PER_MILLI = 1e6;
// 68 years, which is practically for ever and fits into a time_t of any size.
static const double TIMEOUT_MILLIS_MAX = 2147483647e3;

static struct timespec after(struct timespec now, double milliseconds) {
  double seconds = floor(milliseconds / MILLIS_PER_SECOND);
  now.tv_sec += (time_t)seconds;
  now.tv_nsec += (long)((milliseconds - seconds * MILLIS_PER_SECOND) * NANOS_PER_MILLI);
  if (now.tv_nsec >= NANOS_PER_SECOND) {
    now.tv_sec++;
    now.tv_nsec -= NANOS_PER_SECOND;
  }
  return now;
}

static struct timespec until(struct timespec end) {
  struct timespec now;
  // Cannot fail for this clock.
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct timespec left = {.tv_sec = end.tv_sec - now.tv_sec, .tv_nsec = end.tv_nsec - now.tv_nsec};
  if (left.tv_nsec < 0) {
    left.tv_sec--;
    left.tv_nsec += NANOS_PER_SECOND;
  }
  if (left.tv_sec < 0) left.tv_sec = left.tv_nsec = 0;
  return left;
}

napi_value wait_readable(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  double milliseconds;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd)) return NULL;
  if (napi_get_value_double(env, values[1], &milliseconds) != napi_ok) {
    return throw_type_error(env, "timeoutMs must be a number");
  }
  // Negated, so that NaN is refused too.
  if (!(milliseconds >= 0)) return throw_range_error(env, "timeoutMs must be at least 0; got %.17g", milliseconds);

  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct timespec end = after(now, fmin(milliseconds, TIMEOUT_MILLIS_MAX));
  struct pollfd polled = {.fd = fd, .events = POLLIN | POLLRDHUP};
  int found;
  do {
    // A signal must not make the wait longer.
    struct timespec left = until(end);
    found = ppoll(&polled, 1, &left, NULL);
  } while (found < 0 && errno == EINTR);
  if (found < 0) return throw_system_error(env, errno, "ppoll", "wait for descriptor %d", fd);
  if ((polled.revents & POLLNVAL) != 0) return throw_system_error(env, EBADF, "ppoll", "wait for descriptor %d", fd);
  int events = (polled.revents & POLLIN) != 0 ? READABLE : 0;
  if ((polled.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0) events |= HUNG_UP;
  return make_integer(env, events);
}
