// What is left of a graph beside products and norms: element-wise operations, copies to another order, lookups,
// reductions.

enum { AXES = 6 };

// One operation on each number, or on pairs of them. A stride of 0 repeats an operand along an axis.
struct Map {
    Place a, b, out;
    long long a_strides[AXES], b_strides[AXES], out_strides[AXES];
    int shape[AXES];
    int count, op;
};

enum {
    COPY, NEG, ABS, SQRT, RSQRT, RECIP, SQUARE, EXP, LOG, TANH, SIGMOID, ERF, COS, SIN, FLOOR, CEIL, MAP_SILU, MAP_GELU_ERF, MAP_GELU_TANH,
    ADD = 32, SUB, MUL, DIV, MAX, MIN, POW
};

__device__ __forceinline__ float compute(int op, float x, float y) {
    switch (op) {
        case NEG: return -x;
        case ABS: return fabsf(x);
        case SQRT: return sqrtf(x);
        case RSQRT: return 1.0f / sqrtf(x);
        case RECIP: return 1.0f / x;
        case SQUARE: return x * x;
        case EXP: return expf(x);
        case LOG: return logf(x);
        case TANH: return tanhf(x);
        case SIGMOID: return sigmoid(x);
        case ERF: return erff(x);
        case COS: return cosf(x);
        case SIN: return sinf(x);
        case FLOOR: return floorf(x);
        case CEIL: return ceilf(x);
        case MAP_SILU: return activate(SILU, x);
        case MAP_GELU_ERF: return activate(GELU_ERF, x);
        case MAP_GELU_TANH: return activate(GELU_TANH, x);
        case ADD: return x + y;
        case SUB: return x - y;
        case MUL: return x * y;
        case DIV: return x / y;
        case MAX: return fmaxf(x, y);
        case MIN: return fminf(x, y);
        case POW: return powf(x, y);
        default: return x;
    }
}

__device__ __forceinline__ long long compute(int op, long long x, long long y) {
    switch (op) {
        case NEG: return -x;
        case ADD: return x + y;
        case SUB: return x - y;
        case MUL: return x * y;
        case MAX: return x > y ? x : y;
        case MIN: return x < y ? x : y;
        default: return x;
    }
}

__device__ __forceinline__ long long widen(long long x) { return x; }

template <typename T> struct Narrow;
template <> struct Narrow<Real> {
    static __device__ __forceinline__ Real of(float x) { return narrow(x); }
};
template <> struct Narrow<long long> {
    static __device__ __forceinline__ long long of(long long x) { return x; }
};

template <typename T>
__device__ __forceinline__ void map(const Map& a) {
    const T* left = at<const T>(a.a);
    const T* right = at<const T>(a.b);
    T* out = at<T>(a.out);
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < a.count; i += (long long)gridDim.x * 256) {
        int rest = (int)i;
        long long x = 0, y = 0, to = 0;
        for (int axis = AXES - 1; axis >= 0; axis--) {
            if (a.shape[axis] == 1) continue;
            int place = rest % a.shape[axis];
            rest /= a.shape[axis];
            x += place * a.a_strides[axis];
            y += place * a.b_strides[axis];
            to += place * a.out_strides[axis];
        }
        out[to] = Narrow<T>::of(compute(a.op, widen(left[x]), a.op >= ADD ? widen(right[y]) : 0));
    }
}

KERNEL(map_real, Map, 256) { map<Real>(a); }
KERNEL(map_int, Map, 256) { map<long long>(a); }

struct Convert {
    Place x, out;
    int count;
};

#define CONVERT(name, from, to, expression)                                                                                   \
    KERNEL(name, Convert, 256) {                                                                                              \
        const from* source = at<const from>(a.x);                                                                             \
        to* out = at<to>(a.out);                                                                                              \
        for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < a.count; i += (long long)gridDim.x * 256) {         \
            from x = source[i];                                                                                               \
            out[i] = expression;                                                                                              \
        }                                                                                                                     \
    }

CONVERT(real_to_float, Real, float, widen(x))
CONVERT(float_to_real, float, Real, narrow(x))
CONVERT(int_to_real, long long, Real, narrow((float)x))
CONVERT(real_to_int, Real, long long, (long long)widen(x))

// out[o, i, r] = table[o, indices[i], r]; an index below 0 counts from the end.
struct Gather {
    Place table, indices, out, fault;
    int outer, entries, count, inner;
};

KERNEL(gather, Gather, 256) {
    const Real* table = at<const Real>(a.table);
    const long long* indices = at<const long long>(a.indices);
    Real* out = at<Real>(a.out);
    long long total = (long long)a.outer * a.count * a.inner;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < total; i += (long long)gridDim.x * 256) {
        int r = (int)(i % a.inner);
        long long rest = i / a.inner, index = indices[rest % a.count];
        if (index < 0) index += a.entries;
        if (index < 0 || index >= a.entries) {
            // Whichever thread writes last, it is 1.
            *at<long long>(a.fault) = 1;
            continue;
        }
        out[i] = table[(rest / a.count * a.entries + index) * a.inner + r];
    }
}

struct Reduce {
    Place x, out;  // [outer, length, inner] to [outer, inner]
    int outer, length, inner, op;
};

enum { SUM, PRODUCT, GREATEST, LEAST, MEAN_OF_SQUARES };

__device__ __forceinline__ float combine(int op, float x, float y) {
    switch (op) {
        case PRODUCT: return x * y;
        case GREATEST: return fmaxf(x, y);
        case LEAST: return fminf(x, y);
        default: return x + y;
    }
}

// A warp for each result.
KERNEL(reduce, Reduce, 128) {
    int lane = threadIdx.x % 32, result = blockIdx.x * 4 + threadIdx.x / 32;
    bool inside = result < a.outer * a.inner;
    if (!inside) result = 0;
    const Real* x = at<const Real>(a.x) + (long long)(result / a.inner) * a.length * a.inner + result % a.inner;
    float sum = a.op == PRODUCT ? 1.0f : a.op == GREATEST ? -3.4e38f : a.op == LEAST ? 3.4e38f : 0.0f;
    for (int i = lane; i < a.length; i += 32) {
        float value = widen(x[(long long)i * a.inner]);
        sum = combine(a.op, sum, a.op == MEAN_OF_SQUARES ? value * value : value);
    }
    for (int mask = 16; mask > 0; mask /= 2) sum = combine(a.op, sum, other_lane(sum, mask));
    if (a.op == MEAN_OF_SQUARES) sum /= a.length;
    if (inside && lane == 0) at<Real>(a.out)[result] = narrow(sum);
}

// The place of the greatest number, or of the least; of equals the first, or with `op` 2 and 3 the last.
KERNEL(arg_greatest, Reduce, 128) {
    int lane = threadIdx.x % 32, result = blockIdx.x * 4 + threadIdx.x / 32;
    bool inside = result < a.outer * a.inner;
    if (!inside) result = 0;
    const Real* x = at<const Real>(a.x) + (long long)(result / a.inner) * a.length * a.inner + result % a.inner;
    float sign = a.op % 2 ? -1.0f : 1.0f, best = -3.4e38f;
    bool last = a.op >= 2;
    int place = last ? -1 : a.length;
    for (int i = lane; i < a.length; i += 32) {
        float value = sign * widen(x[(long long)i * a.inner]);
        if (value > best || (value == best && (last ? i > place : i < place))) {
            best = value;
            place = i;
        }
    }
    for (int mask = 16; mask > 0; mask /= 2) {
        float value = other_lane(best, mask);
        int other = other_lane(place, mask);
        if (value > best || (value == best && (last ? other > place : other < place))) {
            best = value;
            place = other;
        }
    }
    if (inside && lane == 0) at<long long>(a.out)[result] = max(0, min(place, a.length - 1));
}

// Sums, means or maxima over windows of a picture.
struct Pool {
    Place x, out;
    long long x_y, x_x, x_c, out_y, out_x, out_c;  // strides
    int height, width, out_height, out_width, channels;
    int taps_y, taps_x, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
    int op;  // 0: the sum; 1: the mean of what is inside; 2: the mean with padding; 3: the maximum
};

KERNEL(pool, Pool, 256) {
    const Real* x = at<const Real>(a.x);
    Real* out = at<Real>(a.out);
    long long count = (long long)a.out_height * a.out_width * a.channels;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < count; i += (long long)gridDim.x * 256) {
        int c = (int)(i % a.channels), column = (int)(i / a.channels % a.out_width), row = (int)(i / a.channels / a.out_width);
        float sum = a.op == 3 ? -3.4e38f : 0.0f;
        int inside = 0;
        for (int tap = 0; tap < a.taps_y * a.taps_x; tap++) {
            int y = row * a.stride_y - a.pad_y + tap / a.taps_x * a.dilation_y, z = column * a.stride_x - a.pad_x + tap % a.taps_x * a.dilation_x;
            if (y < 0 || z < 0 || y >= a.height || z >= a.width) continue;
            float value = widen(x[y * a.x_y + z * a.x_x + c * a.x_c]);
            sum = a.op == 3 ? fmaxf(sum, value) : sum + value;
            inside++;
        }
        if (a.op == 1) sum /= inside;
        if (a.op == 2) sum /= a.taps_y * a.taps_x;
        out[row * a.out_y + column * a.out_x + c * a.out_c] = narrow(sum);
    }
}
