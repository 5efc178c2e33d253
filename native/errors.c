#include "errors.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

// Long enough for the longest path (4096 bytes) and the text around it.
enum { MESSAGE_BYTES = 4608 };

struct error_text {
  int number;
  const char *name;
  const char *text;
};

// Our own table, because strerrorname_np() needs glibc 2.32, and strerror() follows the locale and shares a buffer.
static const struct error_text ERROR_TEXTS[] = {
#define E(name, text) {name, #name, text}
  E(EPERM, "Operation not permitted"),
  E(ENOENT, "No such file or directory"),
  E(ESRCH, "No such process"),
  E(EINTR, "Interrupted system call"),
  E(EIO, "Input/output error"),
  E(ENXIO, "No such device or address"),
  E(E2BIG, "Argument list too long"),
  E(EBADF, "Bad file descriptor"),
  E(EAGAIN, "Resource temporarily unavailable"),
  E(ENOMEM, "Cannot allocate memory"),
  E(EACCES, "Permission denied"),
  E(EFAULT, "Bad address"),
  E(EBUSY, "Device or resource busy"),
  E(EEXIST, "File exists"),
  E(EXDEV, "Invalid cross-device link"),
  E(ENODEV, "No such device"),
  E(ENOTDIR, "Not a directory"),
  E(EISDIR, "Is a directory"),
  E(EINVAL, "Invalid argument"),
  E(ENFILE, "Too many open files in system"),
  E(EMFILE, "Too many open files"),
  E(ENOTTY, "Inappropriate ioctl for device"),
  E(ETXTBSY, "Text file busy"),
  E(EFBIG, "File too large"),
  E(ENOSPC, "No space left on device"),
  E(ESPIPE, "Illegal seek"),
  E(EROFS, "Read-only file system"),
  E(EMLINK, "Too many links"),
  E(EPIPE, "Broken pipe"),
  E(ERANGE, "Numerical result out of range"),
  E(EDEADLK, "Resource deadlock avoided"),
  E(ENAMETOOLONG, "File name too long"),
  E(ENOLCK, "No locks available"),
  E(ENOSYS, "Function not implemented"),
  E(ELOOP, "Too many levels of symbolic links"),
  E(ENODATA, "No data available"),
  E(ETIME, "Timer expired"),
  E(EPROTO, "Protocol error"),
  E(EBADMSG, "Bad message"),
  E(EOVERFLOW, "Value too large for defined data type"),
  E(EILSEQ, "Invalid or incomplete multibyte or wide character"),
  E(EUSERS, "Too many users"),
  E(ENOTSOCK, "Socket operation on non-socket"),
  E(EDESTADDRREQ, "Destination address required"),
  E(EMSGSIZE, "Message too long"),
  E(EPROTOTYPE, "Protocol wrong type for socket"),
  E(ENOPROTOOPT, "Protocol not available"),
  E(EPROTONOSUPPORT, "Protocol not supported"),
  E(EOPNOTSUPP, "Operation not supported"),
  E(EAFNOSUPPORT, "Address family not supported by protocol"),
  E(EADDRINUSE, "Address already in use"),
  E(EADDRNOTAVAIL, "Cannot assign requested address"),
  E(ENETDOWN, "Network is down"),
  E(ENETUNREACH, "Network is unreachable"),
  E(ECONNABORTED, "Software caused connection abort"),
  E(ECONNRESET, "Connection reset by peer"),
  E(ENOBUFS, "No buffer space available"),
  E(EISCONN, "Transport endpoint is already connected"),
  E(ENOTCONN, "Transport endpoint is not connected"),
  E(ESHUTDOWN, "Cannot send after transport endpoint shutdown"),
  E(ETOOMANYREFS, "Too many references: cannot splice"),
  E(ETIMEDOUT, "Connection timed out"),
  E(ECONNREFUSED, "Connection refused"),
  E(EHOSTUNREACH, "No route to host"),
  E(EALREADY, "Operation already in progress"),
  E(EINPROGRESS, "Operation now in progress"),
  E(ESTALE, "Stale file handle"),
  E(EDQUOT, "Disk quota exceeded"),
  E(ECANCELED, "Operation canceled"),
#undef E
};

static const struct error_text UNKNOWN_ERROR = {0, "EUNKNOWN", "Unknown error"};

static const struct error_text *text_of(int error) {
  for (size_t i = 0; i < sizeof ERROR_TEXTS / sizeof *ERROR_TEXTS; i++) {
    if (ERROR_TEXTS[i].number == error) return &ERROR_TEXTS[i];
  }
  return &UNKNOWN_ERROR;
}

// How to raise the limits that users run into.
static const char *hint_for(int error, const char *syscall) {
  if (error == EMFILE) return "; raise the limit of open files (ulimit -n)";
  if (error == ENFILE) return "; raise the system's limit of open files (/proc/sys/fs/file-max)";
  if (error == ETOOMANYREFS) return "; too many descriptors are in flight: raise the limit of open files (ulimit -n)";
  if (error == ENOMEM && strcmp(syscall, "mmap") == 0) {
    return "; the process may have reached vm.max_map_count (see /proc/sys/vm/max_map_count)";
  }
  if ((error == ENOSPC || error == ENOMEM) && strcmp(syscall, "fallocate") == 0) {
    return "; shared memory is exhausted: the limit of the cgroup (memory.max) or of tmpfs has been reached";
  }
  return "";
}

static bool set_property(napi_env env, napi_value object, const char *name, napi_value value) {
  return napi_set_named_property(env, object, name, value) == napi_ok;
}

static napi_value throw_error(napi_env env, int error, const char *syscall, const char *message) {
  const struct error_text *known = text_of(error);
  napi_value code, text, number, name, result;
  if (napi_create_string_utf8(env, known->name, NAPI_AUTO_LENGTH, &code) == napi_ok &&
      napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &text) == napi_ok &&
      napi_create_string_utf8(env, syscall, NAPI_AUTO_LENGTH, &name) == napi_ok &&
      napi_create_int32(env, -error, &number) == napi_ok &&
      napi_create_error(env, code, text, &result) == napi_ok && set_property(env, result, "errno", number) &&
      set_property(env, result, "syscall", name)) {
    napi_throw(env, result);
  } else {
    throw_napi_failure(env, "napi_create_error");
  }
  return NULL;
}

// Appends to a message that may be full already. Text that does not fit is cut off.
__attribute__((format(printf, 2, 3)))
static void append(char *message, const char *format, ...) {
  size_t used = strlen(message);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message + used, MESSAGE_BYTES - used, format, arguments);
  va_end(arguments);
}

napi_value throw_system_error(napi_env env, int error, const char *syscall, const char *format, ...) {
  const struct error_text *known = text_of(error);
  char message[MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (known == &UNKNOWN_ERROR) {
    append(message, ": %s %d", known->text, error);
  } else {
    append(message, ": %s (%s)%s", known->text, known->name, hint_for(error, syscall));
  }
  return throw_error(env, error, syscall, message);
}

napi_value throw_explained_error(napi_env env, int error, const char *syscall, const char *format, ...) {
  char message[MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  append(message, " (%s)", text_of(error)->name);
  return throw_error(env, error, syscall, message);
}

napi_value throw_type_error(napi_env env, const char *format, ...) {
  char message[MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", message);
  return NULL;
}

napi_value throw_range_error(napi_env env, const char *format, ...) {
  char message[MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  napi_throw_range_error(env, "ERR_OUT_OF_RANGE", message);
  return NULL;
}

napi_value throw_napi_failure(napi_env env, const char *call) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return NULL;
  char message[128];
  snprintf(message, sizeof message, "%s failed", call);
  napi_throw_error(env, "ERR_NAPI", message);
  return NULL;
}
