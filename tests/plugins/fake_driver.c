/* A CUDA driver of our own making, to see without a GPU what the launcher asks of it. What it is asked is a log, one line
 * a call, of which fake_log gives the address. FAKE_CAPABILITY is the device's; FAKE_INIT is what cuInit returns;
 * FAKE_REFUSES is "cubin", "ptx" or "launch". */
#include <pthread.h>
#include <stddef.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char text[1 << 20];
static size_t used;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void* context = (void*)0x1000;
static unsigned long long context_id = 1;

const char* fake_log(void) { return text; }

void fake_context(void* address, unsigned long long id) {
  context = address;
  context_id = id;
}

static void say(const char* format, ...) {
  va_list arguments;
  pthread_mutex_lock(&mutex);
  va_start(arguments, format);
  used += vsnprintf(text + used, sizeof text - used, format, arguments);
  va_end(arguments);
  pthread_mutex_unlock(&mutex);
}

static int refuses(const char* what) {
  const char* refused = getenv("FAKE_REFUSES");
  return refused && strcmp(refused, what) == 0;
}

static int number(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value ? atoi(value) : otherwise;
}

int cuInit(unsigned flags) {
  (void)flags;
  return number("FAKE_INIT", 0);
}

int cuGetErrorName(int error, const char** name) {
  *name = error == 100 ? "CUDA_ERROR_NO_DEVICE" : error == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : "CUDA_ERROR_LAUNCH_FAILED";
  return 0;
}

int cuGetErrorString(int error, const char** words) {
  (void)error;
  *words = "in other words";
  return 0;
}

int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}

int cuCtxGetCurrent(void** current) {
  *current = context;
  return 0;
}

int cuCtxGetId(void* of, unsigned long long* id) {
  (void)of;
  *id = context_id;
  return 0;
}

int cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int capability = number("FAKE_CAPABILITY", 90);
  (void)device;
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 97 ? 227 * 1024 : -1;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  const char* kind = memcmp(image, "\177ELF", 4) == 0 ? "cubin" : strstr(image, ".version") ? "ptx" : "nonsense";
  say("load %s\n", kind);
  *module = (void*)kind;
  return refuses(kind) ? 209 : 0;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  (void)module;
  *function = strdup(name);
  return 0;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  say("attribute %s %d %d\n", (char*)function, attribute, value);
  return 0;
}

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void* stream, void** parameters, void** extra) {
  char line[1024];
  const char* types = strncmp(function, "attention", 9) == 0 ? "ppppppiiiiiiiifpp" /* the last two are what Triton adds */
                      : strncmp(function, "key", 3) != 0     ? "pppiipp" /* pack_graph, top_k_graph */
                                                             : "ppppiiipp";
  int length = snprintf(line, sizeof line, "launch %s %u %u %u %u %u %u %u %p", (char*)function, grid_x, grid_y, grid_z,
                        block_x, block_y, block_z, shared, stream);
  if (extra || refuses("launch")) return 719;
  for (int i = 0; types[i]; ++i) {
    char* end = line + length;
    const size_t left = sizeof line - length;
    if (types[i] == 'p') length += snprintf(end, left, " %zu", *(size_t*)parameters[i]);
    if (types[i] == 'i') length += snprintf(end, left, " %d", *(int*)parameters[i]);
    if (types[i] == 'f') length += snprintf(end, left, " %g", *(float*)parameters[i]);
  }
  say("%s\n", line);
  return 0;
}
