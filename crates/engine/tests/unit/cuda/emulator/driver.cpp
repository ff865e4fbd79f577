// A stand-in for NVIDIA's driver and NVRTC on a machine that has neither: it runs kernels by the emulation, so that
// tests reach every call that the library makes. MASKGIT_FAKE_GPU says what is wrong with it: old, none, weak, memory,
// kernels; nothing: it works.

#include "emulator.cpp"

#include <string>

typedef int Code;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURE_INVALIDATED = 901 };

static bool wrong(const char* what) {
    const char* said = getenv("MASKGIT_FAKE_GPU");
    return said && strcmp(said, what) == 0;
}

struct Launched {
    const Kernel* kernel;
    unsigned grid[3], threads;
    std::vector<char> arguments;
};

struct Stream {
    bool capturing = false;
    std::vector<Launched> captured;
};

struct Graph {
    std::vector<Launched> launches;
};

static thread_local void* current;

static Code run(const Launched& l) {
    const char* fault = emulate(l.kernel->name, l.grid, l.threads, l.arguments.data(), l.arguments.size(), 0, 2);
    if (fault) fprintf(stderr, "%s: %s\n", l.kernel->name, fault);
    return fault ? 700 : SUCCESS;
}

// Most calls need a context.
#define NEEDS_CONTEXT \
    if (!current) return 201

extern "C" {

Code cuDriverGetVersion(int* version) {
    *version = wrong("old") ? 11040 : 12040;
    return SUCCESS;
}

Code cuInit(unsigned) { return SUCCESS; }

Code cuGetErrorString(Code code, const char** text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : "the stand-in says no";
    return SUCCESS;
}

Code cuDeviceGetCount(int* count) {
    *count = wrong("none") ? 0 : 1;
    return SUCCESS;
}

Code cuDeviceGet(int* device, int index) {
    *device = index;
    return index == 0 ? SUCCESS : 101;
}

Code cuDeviceGetName(char* name, int length, int) {
    strncpy(name, "Stand-in", length);
    return SUCCESS;
}

Code cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = 8000000000;
    return SUCCESS;
}

Code cuDeviceGetAttribute(int* value, int which, int) {
    switch (which) {
        case 16: *value = 8; return SUCCESS;
        case 18: *value = 1; return SUCCESS;
        case 75: *value = wrong("weak") ? 5 : 8; return SUCCESS;
        case 76: *value = wrong("weak") ? 3 : 7; return SUCCESS;
        default: return INVALID_VALUE;
    }
}

Code cuDevicePrimaryCtxRetain(void** context, int) {
    *context = reinterpret_cast<void*>(1);
    return SUCCESS;
}

Code cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

Code cuCtxSetCurrent(void* context) {
    current = context;
    return SUCCESS;
}

Code cuMemAlloc_v2(unsigned long long* address, size_t bytes) {
    NEEDS_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (wrong("memory")) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(memory, 0xff, bytes);
    *address = reinterpret_cast<unsigned long long>(memory);
    return SUCCESS;
}

Code cuMemFree_v2(unsigned long long address) {
    NEEDS_CONTEXT;
    free(reinterpret_cast<void*>(address));
    return SUCCESS;
}

Code cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t bytes, Stream* stream) {
    NEEDS_CONTEXT;
    if (stream->capturing) return CAPTURE_INVALIDATED;
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    return SUCCESS;
}

Code cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, Stream* stream) {
    NEEDS_CONTEXT;
    if (stream->capturing) return CAPTURE_INVALIDATED;
    memcpy(to, reinterpret_cast<void*>(from), bytes);
    return SUCCESS;
}

Code cuStreamCreate(Stream** stream, unsigned) {
    NEEDS_CONTEXT;
    *stream = new Stream;
    return SUCCESS;
}

Code cuStreamDestroy_v2(Stream* stream) {
    NEEDS_CONTEXT;
    delete stream;
    return SUCCESS;
}

Code cuStreamSynchronize(Stream* stream) { return stream->capturing ? CAPTURE_INVALIDATED : SUCCESS; }

Code cuStreamBeginCapture_v2(Stream* stream, int) {
    NEEDS_CONTEXT;
    if (stream->capturing) return INVALID_VALUE;
    stream->capturing = true;
    stream->captured.clear();
    return SUCCESS;
}

Code cuStreamEndCapture(Stream* stream, Graph** graph) {
    NEEDS_CONTEXT;
    if (!stream->capturing) return INVALID_VALUE;
    stream->capturing = false;
    *graph = new Graph{stream->captured};
    return SUCCESS;
}

Code cuGraphInstantiateWithFlags(Graph** ready, Graph* graph, unsigned long long) {
    NEEDS_CONTEXT;
    *ready = new Graph(*graph);
    return SUCCESS;
}

Code cuGraphDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}

Code cuGraphExecDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}

Code cuGraphLaunch(Graph* graph, Stream*) {
    NEEDS_CONTEXT;
    for (const Launched& launched : graph->launches)
        if (Code code = run(launched)) return code;
    return SUCCESS;
}

// The image is the source that the stand-in's NVRTC was given; the module is its copy.
Code cuModuleLoadData(void** module, const void* image) {
    NEEDS_CONTEXT;
    *module = new std::string(static_cast<const char*>(image));
    return SUCCESS;
}

Code cuModuleUnload(void* module) {
    NEEDS_CONTEXT;
    delete static_cast<std::string*>(module);
    return SUCCESS;
}

Code cuModuleGetFunction(const Kernel** function, void* module, const char* name) {
    NEEDS_CONTEXT;
    // Only what was asked for is there.
    if (static_cast<std::string*>(module)->find(std::string("#define WANTED_") + name + " 1\n") == std::string::npos) return NOT_FOUND;
    for (Kernel* kernel = kernels; kernel; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0) {
            *function = kernel;
            return SUCCESS;
        }
    return NOT_FOUND;
}

Code cuLaunchKernel(const Kernel* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned, Stream* stream, void** parameters, void** extra) {
    NEEDS_CONTEXT;
    if (extra || !parameters) return INVALID_VALUE;
    const char* arguments = static_cast<const char*>(parameters[0]);
    Launched launched{kernel, {x, y, z}, threads, std::vector<char>(arguments, arguments + kernel->size)};
    if (!stream->capturing) return run(launched);
    stream->captured.push_back(launched);
    return SUCCESS;
}

struct Program {
    std::string source, log;
};

Code nvrtcVersion(int* major, int* minor) {
    *major = 12;
    *minor = 4;
    return SUCCESS;
}

const char* nvrtcGetErrorString(Code) { return "the stand-in cannot compile"; }

Code nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char* const*, const char* const*) {
    *program = new Program{source, ""};
    return SUCCESS;
}

Code nvrtcDestroyProgram(Program** program) {
    delete *program;
    return SUCCESS;
}

Code nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    if (wrong("kernels")) {
        program->log = "line 1: no";
        return 6;
    }
    bool right = false, known = false;
    for (int i = 0; i < count; i++) {
        right |= strcmp(options[i], FP16 ? "-DFP16=1" : "-DFP16=0") == 0;
        known |= strcmp(options[i], "--gpu-architecture=sm_87") == 0;
    }
    return right && known ? SUCCESS : 5;
}

Code nvrtcGetProgramLogSize(Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return SUCCESS;
}

Code nvrtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}

Code nvrtcGetCUBINSize(Program* program, size_t* size) {
    *size = program->source.size() + 1;
    return SUCCESS;
}

Code nvrtcGetCUBIN(Program* program, char* image) {
    memcpy(image, program->source.c_str(), program->source.size() + 1);
    return SUCCESS;
}

Code nvrtcGetPTXSize(Program* program, size_t* size) { return nvrtcGetCUBINSize(program, size); }
Code nvrtcGetPTX(Program* program, char* image) { return nvrtcGetCUBIN(program, image); }

Code nvrtcGetNumSupportedArchs(int* count) {
    *count = 3;
    return SUCCESS;
}

Code nvrtcGetSupportedArchs(int* list) {
    list[0] = 75, list[1] = 87, list[2] = 90;
    return SUCCESS;
}

}
