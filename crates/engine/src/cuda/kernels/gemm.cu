// Dense layers and convolutions: activation(x W + b) + residual.
//
// A convolution is a product as well: its row is an output pixel, its inner place a tap and a channel. What a tap reads
// is worked out as tiles are loaded, so no matrix of patches exists. Pictures have their channels last; `shift` 1
// doubles every pixel first.

struct Gemm {
    Place x;         // [rows, inner], or [height, width, channels]
    Place w;         // [columns, ldw]: each column's weights side by side, in the order tap, channel
    Place scales;    // int8 weights: what one unit of a column is worth, fp32
    Place bias;      // fp32
    Place residual;  // as out
    Place out;       // [rows, columns]
    int rows, columns, inner, ldw;
    int pointwise;           // each row of the product reads one row of x, and nothing below matters
    int channels, height, width, out_width;
    int taps_x, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x, shift;
    int activation;
    int wide_x, wide_w;      // 16 bytes of x, or WIDE weights, can be read at once
};

// The row of a product: where its first tap is.
struct Row {
    int y, x;
    bool inside;
};

__device__ __forceinline__ Row row_of(const Gemm& a, int row) {
    Row r;
    r.inside = row < a.rows;
    if (a.pointwise) {
        r.y = row;
        r.x = 0;
    } else {
        r.y = row / a.out_width * a.stride_y - a.pad_y;
        r.x = row % a.out_width * a.stride_x - a.pad_x;
    }
    return r;
}

// Where the number at an inner place of a row is in x, or -1 where it is padding.
__device__ __forceinline__ long long place_of(const Gemm& a, const Row& r, int k) {
    if (!r.inside || k >= a.inner) return -1;
    if (a.pointwise) return (long long)r.y * a.inner + k;
    int tap = k / a.channels, channel = k - tap * a.channels;
    int y = r.y + tap / a.taps_x * a.dilation_y, x = r.x + tap % a.taps_x * a.dilation_x;
    if (y < 0 || x < 0 || y >= a.height << a.shift || x >= a.width << a.shift) return -1;
    return ((long long)(y >> a.shift) * a.width + (x >> a.shift)) * a.channels + channel;
}

// WIDE numbers of x. Where they can be read at once, they belong to one tap.
__device__ __forceinline__ Wide fetch_x(const Gemm& a, const Real* x, const Row& r, int k) {
    Wide to;
    if (a.wide_x) {
        long long place = place_of(a, r, k);
        if (place >= 0) return *reinterpret_cast<const Wide*>(x + place);
        for (int i = 0; i < WIDE; i++) to.values[i] = narrow(0.0f);
        return to;
    }
    for (int i = 0; i < WIDE; i++) {
        long long place = place_of(a, r, k + i);
        to.values[i] = place >= 0 ? x[place] : narrow(0.0f);
    }
    return to;
}

__device__ __forceinline__ Wide fetch_w(const Gemm& a, const Real* w, int column, int k) {
    if (a.wide_w && column < a.columns && k < a.inner) return *reinterpret_cast<const Wide*>(w + (long long)column * a.ldw + k);
    Wide to;
    for (int i = 0; i < WIDE; i++) {
        to.values[i] = column < a.columns && k + i < a.inner ? w[(long long)column * a.ldw + k + i] : narrow(0.0f);
    }
    return to;
}

struct __align__(WIDE) WideInt8 {
    signed char values[WIDE];
};

// int8 weights are widened as they are loaded; what a unit is worth comes in at the end.
__device__ __forceinline__ Wide fetch_w(const Gemm& a, const signed char* w, int column, int k) {
    Wide to;
    if (a.wide_w && column < a.columns && k < a.inner) {
        WideInt8 wide = *reinterpret_cast<const WideInt8*>(w + (long long)column * a.ldw + k);
        for (int i = 0; i < WIDE; i++) to.values[i] = narrow((float)wide.values[i]);
        return to;
    }
    for (int i = 0; i < WIDE; i++) {
        bool inside = column < a.columns && k + i < a.inner;
        to.values[i] = narrow(inside ? (float)w[(long long)column * a.ldw + k + i] : 0.0f);
    }
    return to;
}

// Finishes one number.
__device__ __forceinline__ void finish(const Gemm& a, int row, int column, float sum) {
    if (row >= a.rows || column >= a.columns) return;
    if (a.scales.address) sum *= at<const float>(a.scales)[column];
    if (a.bias.address) sum += at<const float>(a.bias)[column];
    sum = activate(a.activation, sum);
    long long place = (long long)row * a.columns + column;
    if (a.residual.address) sum += widen(at<const Real>(a.residual)[place]);
    at<Real>(a.out)[place] = narrow(sum);
}

#if FP16

// Numbers of the inner dimension in a tile, and the length of a tile's row: padded so that the threads of a warp read
// different banks.
enum { DEPTH = 32, PITCH = DEPTH + 8 };

// A tile of TM x TN by warps of WM x WN each, on the tensor cores.
template <int TM, int TN, int WM, int WN, typename W>
__device__ __forceinline__ void gemm(const Gemm& a) {
    const int THREADS = TM / WM * (TN / WN) * 32;
    const int ACROSS = DEPTH / WIDE;           // wide reads in a row of a tile
    const int STEP = THREADS / ACROSS;         // rows that all threads read at once
    const int XS = TM / STEP, WS = TN / STEP;  // wide reads of a thread
    SHARED(Half, xs, 2 * TM * PITCH);
    SHARED(Half, ws, 2 * TN * PITCH);
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int first_row = blockIdx.x * TM, first_column = blockIdx.y * TN;
    int load_row = thread / ACROSS, load_k = thread % ACROSS * WIDE;
    const Real* x = at<const Real>(a.x);
    const W* w = at<const W>(a.w);
    Row rows[XS];
    for (int i = 0; i < XS; i++) rows[i] = row_of(a, first_row + load_row + i * STEP);
    Wide from_x[XS], from_w[WS];
    float sums[WM / 16][WN / 8][4];
    for (int i = 0; i < WM / 16; i++)
        for (int j = 0; j < WN / 8; j++)
            for (int n = 0; n < 4; n++) sums[i][j][n] = 0.0f;
    int warp_row = warp / (TN / WN) * WM, warp_column = warp % (TN / WN) * WN;
    int group = lane / 4, pair = lane % 4 * 2;
    int tiles = (a.inner + DEPTH - 1) / DEPTH;
    for (int tile = -1; tile < tiles; tile++) {
        // The next tile is on its way while this one is multiplied.
        if (tile + 1 < tiles) {
            int k = (tile + 1) * DEPTH + load_k;
            for (int i = 0; i < XS; i++) from_x[i] = fetch_x(a, x, rows[i], k);
            for (int i = 0; i < WS; i++) from_w[i] = fetch_w(a, w, first_column + load_row + i * STEP, k);
        }
        if (tile >= 0) {
            const Half* tile_x = xs + tile % 2 * TM * PITCH + warp_row * PITCH;
            const Half* tile_w = ws + tile % 2 * TN * PITCH + warp_column * PITCH;
            for (int k = 0; k < DEPTH; k += 16) {
                unsigned left[WM / 16][4], right[WN / 8][2];
                for (int i = 0; i < WM / 16; i++)
                    for (int n = 0; n < 4; n++)
                        left[i][n] = *reinterpret_cast<const unsigned*>(tile_x + (i * 16 + group + n % 2 * 8) * PITCH + k + pair + n / 2 * 8);
                for (int j = 0; j < WN / 8; j++)
                    for (int n = 0; n < 2; n++)
                        right[j][n] = *reinterpret_cast<const unsigned*>(tile_w + (j * 8 + group) * PITCH + k + pair + n * 8);
                for (int i = 0; i < WM / 16; i++)
                    for (int j = 0; j < WN / 8; j++) tensor_product(sums[i][j], left[i], right[j]);
            }
        }
        if (tile + 1 < tiles) {
            Half* tile_x = xs + (tile + 1) % 2 * TM * PITCH;
            Half* tile_w = ws + (tile + 1) % 2 * TN * PITCH;
            for (int i = 0; i < XS; i++) *reinterpret_cast<Wide*>(tile_x + (load_row + i * STEP) * PITCH + load_k) = from_x[i];
            for (int i = 0; i < WS; i++) *reinterpret_cast<Wide*>(tile_w + (load_row + i * STEP) * PITCH + load_k) = from_w[i];
        }
        __syncthreads();
    }
    for (int i = 0; i < WM / 16; i++)
        for (int j = 0; j < WN / 8; j++)
            for (int n = 0; n < 4; n++)
                finish(a, first_row + warp_row + i * 16 + group + n / 2 * 8, first_column + warp_column + j * 8 + pair + n % 2, sums[i][j][n]);
}

KERNEL(gemm_small, Gemm, 128) { gemm<32, 32, 16, 16, Real>(a); }
KERNEL(gemm_middle, Gemm, 128) { gemm<64, 64, 32, 32, Real>(a); }
KERNEL(gemm_large, Gemm, 256) { gemm<128, 128, 64, 32, Real>(a); }
KERNEL(gemm_int8_small, Gemm, 128) { gemm<32, 32, 16, 16, signed char>(a); }
KERNEL(gemm_int8_middle, Gemm, 128) { gemm<64, 64, 32, 32, signed char>(a); }
KERNEL(gemm_int8_large, Gemm, 256) { gemm<128, 128, 64, 32, signed char>(a); }

#else

enum { DEPTH = 16 };

// A tile of T x T by 256 threads in fp32, each with a square of neighbouring outputs.
template <int T, typename W>
__device__ __forceinline__ void gemm(const Gemm& a) {
    const int SIDE = T / 16, PITCH = T + 4;
    const int ACROSS = DEPTH / WIDE, STEP = 256 / ACROSS, READS = (T + STEP - 1) / STEP;
    SHARED(float, xs, 2 * DEPTH * PITCH);
    SHARED(float, ws, 2 * DEPTH * PITCH);
    int thread = threadIdx.x;
    int first_row = blockIdx.x * T, first_column = blockIdx.y * T;
    int load_row = thread / ACROSS, load_k = thread % ACROSS * WIDE;
    const Real* x = at<const Real>(a.x);
    const W* w = at<const W>(a.w);
    Row rows[READS];
    for (int i = 0; i < READS; i++) rows[i] = row_of(a, first_row + load_row + i * STEP);
    Wide from_x[READS], from_w[READS];
    float sums[SIDE][SIDE];
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) sums[i][j] = 0.0f;
    int my_row = thread / 16 * SIDE, my_column = thread % 16 * SIDE;
    int tiles = (a.inner + DEPTH - 1) / DEPTH;
    for (int tile = -1; tile < tiles; tile++) {
        if (tile + 1 < tiles) {
            int k = (tile + 1) * DEPTH + load_k;
            for (int i = 0; i < READS; i++) {
                from_x[i] = fetch_x(a, x, rows[i], k);
                from_w[i] = fetch_w(a, w, first_column + load_row + i * STEP, k);
            }
        }
        if (tile >= 0) {
            const float* tile_x = xs + tile % 2 * DEPTH * PITCH;
            const float* tile_w = ws + tile % 2 * DEPTH * PITCH;
            for (int k = 0; k < DEPTH; k++) {
                float left[SIDE], right[SIDE];
                for (int i = 0; i < SIDE; i++) left[i] = tile_x[k * PITCH + my_row + i];
                for (int j = 0; j < SIDE; j++) right[j] = tile_w[k * PITCH + my_column + j];
                for (int i = 0; i < SIDE; i++)
                    for (int j = 0; j < SIDE; j++) sums[i][j] += left[i] * right[j];
            }
        }
        if (tile + 1 < tiles) {
            float* tile_x = xs + (tile + 1) % 2 * DEPTH * PITCH;
            float* tile_w = ws + (tile + 1) % 2 * DEPTH * PITCH;
            for (int i = 0; i < READS; i++) {
                int row = load_row + i * STEP;
                if (row >= T) break;
                for (int n = 0; n < WIDE; n++) {
                    tile_x[(load_k + n) * PITCH + row] = from_x[i].values[n];
                    tile_w[(load_k + n) * PITCH + row] = from_w[i].values[n];
                }
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) finish(a, first_row + my_row + i, first_column + my_column + j, sums[i][j]);
}

KERNEL(gemm_small, Gemm, 256) { gemm<32, Real>(a); }
KERNEL(gemm_middle, Gemm, 256) { gemm<64, Real>(a); }
KERNEL(gemm_large, Gemm, 256) { gemm<128, Real>(a); }
KERNEL(gemm_int8_small, Gemm, 256) { gemm<32, signed char>(a); }
KERNEL(gemm_int8_middle, Gemm, 256) { gemm<64, signed char>(a); }
KERNEL(gemm_int8_large, Gemm, 256) { gemm<128, signed char>(a); }

#endif
