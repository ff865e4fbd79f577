// What all kernels share. The third dimension of a grid is the row of the batch: each row is computed by itself, by the
// same threads in the same order, whatever the others are. FP16 says whether tensors are held in fp16 or in fp32; sums
// are in fp32.

// Where a tensor is, and how many bytes later that of the next row of the batch is: 0 for a constant. The address 0 is
// none.
struct Place {
    unsigned long long address;
    unsigned long long stride;
};

#if FP16
typedef Half Real;
__device__ __forceinline__ float widen(Half x) { return to_float(x); }
__device__ __forceinline__ Half narrow(float x) { return to_half(x); }
#else
typedef float Real;
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float narrow(float x) { return x; }
#endif

// Numbers that are read at once: 16 bytes.
enum { WIDE = 16 / sizeof(Real) };

struct __align__(16) Wide {
    Real values[WIDE];
};

template <typename T>
__device__ __forceinline__ T* at(const Place& place) {
    return reinterpret_cast<T*>(place.address + place.stride * blockIdx.z);
}

enum { NONE = 0, SILU = 1, GELU_ERF = 2, GELU_TANH = 3 };

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float activate(int activation, float x) {
    switch (activation) {
        case SILU: return x * sigmoid(x);
        case GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case GELU_TANH: return x * sigmoid(1.5957691f * (x + 0.044715f * x * x * x));
        default: return x;
    }
}

// Sums over a warp, in the same order in every lane.
__device__ __forceinline__ float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x += other_lane(x, mask);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, other_lane(x, mask));
    return x;
}
