// The scheduler, and what a test calls.

#include "shim.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

thread_local Block block;
thread_local Index threadIdx, blockIdx, gridDim, blockDim;
Kernel* kernels;

#include "../../../../src/cuda/kernels/common.cuh"
#include "../../../../src/cuda/kernels/gemm.cu"
#include "../../../../src/cuda/kernels/attention.cu"
#include "../../../../src/cuda/kernels/norm.cu"
#include "../../../../src/cuda/kernels/tensor.cu"

static const size_t STACK = 96 << 10;

static void enter() {
    unsigned self = block.current;
    threadIdx = {self, 0, 0};
    block.kernel(block.arguments);
    block.threads[self].wait = DONE;
    _longjmp(block.scheduler, 1);
}

// Runs one block; its threads in ascending or descending order, which must not matter.
static void run_block(bool backwards) {
    for (unsigned i = 0; i < block.count; i++) {
        Thread& thread = block.threads[i];
        if (!thread.stack) thread.stack = static_cast<char*>(malloc(STACK));
        thread.wait = READY;
        getcontext(&thread.start);
        thread.start.uc_stack.ss_sp = thread.stack;
        thread.start.uc_stack.ss_size = STACK;
        thread.start.uc_link = nullptr;
        makecontext(&thread.start, enter, 0);
    }
    std::vector<char> started(block.count, 0);
    for (;;) {
        for (unsigned n = 0; n < block.count; n++) {
            unsigned i = backwards ? block.count - 1 - n : n;
            if (block.threads[i].wait != READY) continue;
            block.current = i;
            if (_setjmp(block.scheduler) == 0) {
                if (started[i]) _longjmp(block.threads[i].context, 1);
                started[i] = 1;
                setcontext(&block.threads[i].start);
            }
        }
        // Everybody waits or has finished. Whole warps go on that wait for their lanes; else the block, if all of it
        // waits.
        bool progress = false;
        unsigned at_block = 0, done = 0;
        for (unsigned first = 0; first < block.count; first += 32) {
            unsigned at_warp = 0;
            for (unsigned i = first; i < first + 32 && i < block.count; i++) {
                at_warp += block.threads[i].wait == AT_WARP;
                at_block += block.threads[i].wait == AT_BLOCK;
                done += block.threads[i].wait == DONE;
            }
            if (at_warp == 0) continue;
            if (at_warp != 32) {
                block.fault = "the lanes of a warp have parted at an exchange";
                return;
            }
            for (unsigned i = first; i < first + 32; i++) block.threads[i].wait = READY;
            progress = true;
        }
        if (progress) continue;
        if (done == block.count) return;
        if (at_block != block.count) {
            block.fault = "some threads of a block wait at a barrier that others do not reach";
            return;
        }
        for (unsigned i = 0; i < block.count; i++) block.threads[i].wait = READY;
    }
}

// Runs a kernel. Returns what is wrong, or NULL.
extern "C" const char* emulate(const char* name, const unsigned* grid, unsigned threads, const void* arguments, size_t size, int backwards, unsigned workers) {
    Kernel* kernel = kernels;
    while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
    if (!kernel) return "there is no such kernel";
    if (kernel->size != size) return "the arguments do not have the size of the kernel's struct";
    if (kernel->threads != threads) return "the kernel is made for another number of threads";
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535) return "the grid has an impossible size";
    size_t total = (size_t)grid[0] * grid[1] * grid[2];
    std::atomic<size_t> next(0);
    std::atomic<const char*> fault(nullptr);
    auto work = [&] {
        block.count = threads;
        block.kernel = kernel->run;
        block.arguments = arguments;
        block.fault = nullptr;
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {threads, 1, 1};
        for (size_t i; (i = next++) < total && !fault;) {
            blockIdx = {(unsigned)(i % grid[0]), (unsigned)(i / grid[0] % grid[1]), (unsigned)(i / grid[0] / grid[1])};
            run_block(backwards != 0);
            if (block.fault) fault = block.fault;
        }
        for (Thread& thread : block.threads) {
            free(thread.stack);
            thread.stack = nullptr;
        }
    };
    if (workers <= 1 || total == 1) {
        std::thread(work).join();
    } else {
        std::vector<std::thread> pool;
        for (unsigned i = 0; i < workers && i < total; i++) pool.emplace_back(work);
        for (std::thread& thread : pool) thread.join();
    }
    return fault;
}
