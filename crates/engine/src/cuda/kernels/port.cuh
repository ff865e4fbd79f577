// What differs between a GPU and the emulation on the CPU: conversions to 16 bits, the tensor cores' product, and how a
// kernel is declared. No header of the CUDA toolkit is used, so none need be on the machine where these sources are
// compiled.

// 16-bit floating point, as bits.
struct Half {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(Half h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
    return f;
}

__device__ __forceinline__ Half to_half(float f) {
    Half h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
    return h;
}

// d += a b of a 16x16 and a 16x8 matrix in fp16, summed in fp32 by the 32 threads of a warp. With group = lane / 4 and
// place = lane % 4, and two neighbouring numbers in a register, the lower half first:
//   a[0]: row group, columns 2 place and the next; a[1]: row group + 8; a[2], a[3]: the same rows, 8 columns further
//   b[0]: column group, rows 2 place and the next; b[1]: 8 rows further
//   d[0], d[1]: row group, columns 2 place and the next; d[2], d[3]: row group + 8
__device__ __forceinline__ void tensor_product(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // Turing's product is half as deep.
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

// The number of another thread of the warp, whose lane differs in the bits of `mask`.
__device__ __forceinline__ float other_lane(float value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

__device__ __forceinline__ int other_lane(int value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

#define SHARED(type, name, count) __shared__ __align__(16) type name[count]

// A kernel: its name, the struct it takes, the threads of a block. Those that are not wanted are templates that nobody
// uses, which cost no time.
#define KERNEL(name, type, threads) KERNEL_IF(WANTED_##name)(name, type, threads)
#define KERNEL_IF(wanted) KERNEL_PASTE(KERNEL_, wanted)
#define KERNEL_PASTE(left, right) left##right
#define KERNEL_1(name, type, threads) extern "C" __global__ void __launch_bounds__(threads) name(const type a)
#define KERNEL_0(name, type, threads) template <int> __device__ void name(const type a)
