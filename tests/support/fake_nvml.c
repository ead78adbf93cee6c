/* A stand-in for libnvidia-ml.so.1 at its ABI, as far as the worker uses it. What it says is read from the file that
 * FAKE_NVML names, at every call: lines of "KEY NUMBER", such as "count 2", "gpu1.lost 1", "slow_ms 500". An event is
 * "event SERIAL", "event.gpu 0", "event.xid 79"; each serial is reported once, to whoever has registered for the GPU.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NO_PERMISSION = 4, TIMEOUT = 10, LOST = 15 };
#define GPUS 8
#define XID_CRITICAL_ERROR 0x8ULL
#define RECOVERY_ACTION 230u

struct device { unsigned index; };
struct set { unsigned long long wanted[GPUS]; };
struct event { struct device *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
struct field {
  unsigned id, scope;
  long long timestamp, latency;
  unsigned type, result;
  union { double d; unsigned u; unsigned long long ull; } value;
};

static struct device devices[GPUS];
static long long reported;

static void pause_ms(long ms) {
  struct timespec span = {ms / 1000, (ms % 1000) * 1000000L};
  nanosleep(&span, NULL);
}

/* The number of a key, -1 where there is none. */
static long long number(const char *key) {
  const char *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "r") : NULL;
  char name[64];
  long long value, found = -1;
  if (!file) return -1;
  while (fscanf(file, "%63s %lld", name, &value) == 2)
    if (!strcmp(name, key)) found = value;
  fclose(file);
  return found;
}

static long long of(const struct device *device, const char *what) {
  char key[64];
  snprintf(key, sizeof key, "gpu%u.%s", device->index, what);
  return number(key);
}

/* What every call begins with: it may be slow, fail, or be about a lost GPU. */
static int begin(const struct device *device) {
  long long slow = number("slow_ms"), error = number("error");
  if (slow > 0) pause_ms(slow);
  if (device && of(device, "lost") == 1) return LOST;
  return error > 0 ? (int)error : SUCCESS;
}

static int told(const struct device *device, const char *what, long long *value) {
  int result = begin(device);
  if (result != SUCCESS) return result;
  *value = of(device, what);
  return *value < 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
  long long error = number("init_error");
  (void)flags;
  return error > 0 ? (int)error : SUCCESS;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int result) { (void)result; return "as the test wanted it"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
  long long many = number("count");
  *count = many < 0 ? 1 : (unsigned)many;
  return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
  devices[index].index = index;
  *device = &devices[index];
  if (of(*device, "foreign") == 1) return NO_PERMISSION;
  return of(*device, "lost") == 1 ? LOST : SUCCESS;
}
int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) {
  snprintf(uuid, length, "GPU-%u", device->index);
  return begin(device);
}
int nvmlDeviceGetFieldValues(struct device *device, int count, struct field *fields) {
  for (int at = 0; at < count; at++) {
    long long value = of(device, "recovery");
    fields[at].result = fields[at].id == RECOVERY_ACTION && value >= 0 ? SUCCESS : NOT_SUPPORTED;
    fields[at].type = 1;
    fields[at].value.u = (unsigned)value;
  }
  return begin(device);
}
int nvmlDeviceGetRemappedRows(struct device *d, unsigned *fine, unsigned *bad, unsigned *pending, unsigned *failed) {
  long long remaps;
  int result = told(d, "remaps", &remaps);
  *fine = *bad = 0;
  *pending = of(d, "remap_pending") == 1;
  *failed = of(d, "remap_failed") == 1;
  return result;
}
int nvmlDeviceGetRetiredPagesPendingStatus(struct device *device, int *pending) {
  long long value;
  int result = told(device, "pages_pending", &value);
  *pending = (int)value;
  return result;
}
int nvmlDeviceGetTotalEccErrors(struct device *device, int kind, int counter, unsigned long long *count) {
  long long value;
  int result = told(device, kind == 1 && counter == 0 ? "uncorrected" : "other", &value);
  *count = (unsigned long long)value;
  return result;
}
int nvmlDeviceGetSupportedEventTypes(struct device *device, unsigned long long *types) {
  *types = number("no_events") == 1 ? 0 : XID_CRITICAL_ERROR;
  return begin(device);
}
int nvmlEventSetCreate(struct set **set) {
  *set = calloc(1, sizeof **set);
  reported = 0;
  return SUCCESS;
}
int nvmlDeviceRegisterEvents(struct device *device, unsigned long long types, struct set *set) {
  set->wanted[device->index] = types;
  return SUCCESS;
}
int nvmlEventSetFree(struct set *set) { free(set); return SUCCESS; }
int nvmlEventSetWait_v2(struct set *set, struct event *event, unsigned milliseconds) {
  for (unsigned waited = 0; waited < milliseconds; waited += 10) {
    long long error = number("wait_error"), serial = number("event"), gpu = number("event.gpu");
    if (error > 0) return (int)error;
    if (serial > reported && gpu >= 0 && gpu < GPUS && set->wanted[gpu] & XID_CRITICAL_ERROR) {
      reported = serial;
      event->device = &devices[gpu];
      event->type = XID_CRITICAL_ERROR;
      event->data = (unsigned long long)number("event.xid");
      return SUCCESS;
    }
    pause_ms(10);
  }
  return TIMEOUT;
}
