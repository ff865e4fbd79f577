// Runs CUDA kernels on the CPU, so that a machine without a GPU can test them: the very same sources, compiled as C++.
//
// A block's threads are contexts of their own on one thread of the machine. They change over where they wait for each
// other: at __syncthreads(), in exchanges between the lanes of a warp, and in the tensor cores' product, which is
// computed from all lanes' registers as NVIDIA's manual lays them out. Two threads of a block that reach different
// barriers are an error, as is a read of memory that nobody wrote: it starts as not-a-number. Blocks run one after
// another, shared among the machine's cores.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <ucontext.h>

#define __device__
#define __forceinline__ inline
#define __align__(n) alignas(n)

struct Index {
    unsigned x, y, z;
};

// What a thread is waiting for.
enum Wait { READY, AT_BLOCK, AT_WARP, DONE };

struct Thread {
    jmp_buf context;
    ucontext_t start;
    char* stack;
    Wait wait;
};

struct Lane {
    uint32_t words[8];
};

struct Block {
    Thread threads[1024];
    Lane lanes[1024];
    jmp_buf scheduler;
    unsigned count, current;
    const char* fault;
    void (*kernel)(const void*);
    const void* arguments;
};

extern thread_local Block block;
extern thread_local Index threadIdx, blockIdx;
extern thread_local Index gridDim, blockDim;

// Changes over to the scheduler until the others have come as far.
inline void wait_for(Wait what) {
    block.threads[block.current].wait = what;
    unsigned self = block.current;
    if (_setjmp(block.threads[self].context) == 0) _longjmp(block.scheduler, 1);
    threadIdx.x = self;
}

inline void __syncthreads() { wait_for(AT_BLOCK); }

inline uint32_t exchange(uint32_t word, int mask) {
    unsigned self = block.current;
    block.lanes[self].words[0] = word;
    wait_for(AT_WARP);
    uint32_t other = block.lanes[self ^ (unsigned)mask].words[0];
    wait_for(AT_WARP);
    return other;
}

inline float other_lane(float value, int mask) {
    uint32_t word;
    memcpy(&word, &value, 4);
    word = exchange(word, mask);
    memcpy(&value, &word, 4);
    return value;
}

inline int other_lane(int value, int mask) { return (int)exchange((uint32_t)value, mask); }

struct Half {
    unsigned short bits;
};

inline float to_float(Half h) {
    uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, fraction = h.bits & 1023, word;
    float value;
    if (exponent == 0) {
        value = (float)fraction * 5.9604644775390625e-8f;
        memcpy(&word, &value, 4);
    } else {
        word = (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    }
    word |= sign;
    memcpy(&value, &word, 4);
    return value;
}

// To the nearest, ties to even.
inline Half to_half(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    unsigned short sign = (unsigned short)(word >> 16 & 0x8000);
    word &= 0x7fffffff;
    if (word > 0x7f800000) return {(unsigned short)(sign | 0x7e00)};
    if (word >= 0x477ff000) return {(unsigned short)(sign | 0x7c00)};
    if (word < 0x38800000) {
        // Adding this rounds the fraction where fp16's smallest step is.
        float small;
        memcpy(&small, &word, 4);
        small += 0.5f;
        memcpy(&word, &small, 4);
        return {(unsigned short)(sign | (word - 0x3f000000))};
    }
    word += 0xfff + (word >> 13 & 1);
    return {(unsigned short)(sign | ((word - 0x38000000) >> 13))};
}

inline float half_of(uint32_t word, unsigned place) { return to_float({(unsigned short)(word >> place * 16)}); }

inline void tensor_product(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    unsigned self = block.current, lane = self % 32;
    Lane* warp = block.lanes + (self - lane);
    for (int i = 0; i < 4; i++) warp[lane].words[i] = a[i];
    for (int i = 0; i < 2; i++) warp[lane].words[4 + i] = b[i];
    wait_for(AT_WARP);
    unsigned group = lane / 4, place = lane % 4;
    for (int n = 0; n < 4; n++) {
        unsigned row = group + n / 2 * 8, column = place * 2 + n % 2;
        float sum = d[n];
        for (unsigned k = 0; k < 16; k++) {
            uint32_t left = warp[row % 8 * 4 + k % 8 / 2].words[row / 8 + k / 8 * 2];
            uint32_t right = warp[column * 4 + k % 8 / 2].words[4 + k / 8];
            sum += half_of(left, k % 2) * half_of(right, k % 2);
        }
        d[n] = sum;
    }
    wait_for(AT_WARP);
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

struct Kernel {
    const char* name;
    unsigned threads;
    size_t size;
    void (*run)(const void*);
    Kernel* next;
};

extern Kernel* kernels;

struct Register {
    Kernel kernel;
    Register(const char* name, unsigned threads, size_t size, void (*run)(const void*)) : kernel{name, threads, size, run, kernels} { kernels = &kernel; }
};

#define SHARED(type, name, count) alignas(16) static thread_local type name[count]
#define KERNEL(name, type, threads)                                                                                          \
    static void name(const type& a);                                                                                         \
    static Register register_##name(#name, threads, sizeof(type), [](const void* a) { name(*static_cast<const type*>(a)); }); \
    static void name(const type& a)
