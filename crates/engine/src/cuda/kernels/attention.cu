// Scaled dot product attention: softmax(scale Q K^T) V for each head, a tile of keys at a time (Milakov and Gimelshein
// 2018, Dao et al. 2022), so that scores exist only as a tile.

struct Strides {
    long long head, token, dim;
};

struct Attention {
    Place q, k, v, out;
    Strides qs, ks, vs, outs;
    int queries, keys, dim, value_dim;
    float scale;
    int wide;  // rows of q, k and v can be read 16 bytes at a time
};

// Scores further below than any number: not infinite, so that differences stay numbers.
#define FAR (-1e30f)

// 16 queries by 128 threads, eight to a query, for values of up to `LONGEST` numbers.
template <int LONGEST>
__device__ __forceinline__ void attend(const Attention& a) {
    enum { QUERIES = 16, KEYS = 32, SLICE = 32, EACH = KEYS / 8 };
    SHARED(float, qs, QUERIES * (SLICE + 1));
    SHARED(float, ks, KEYS * (SLICE + 1));
    SHARED(float, weights, QUERIES * (KEYS + 1));
    SHARED(float, sums, QUERIES * LONGEST);
    int thread = threadIdx.x, mine = thread / 8, part = thread % 8;
    int first = blockIdx.x * QUERIES, head = blockIdx.y;
    const Real* q = at<const Real>(a.q) + head * a.qs.head;
    const Real* k = at<const Real>(a.k) + head * a.ks.head;
    const Real* v = at<const Real>(a.v) + head * a.vs.head;
    for (int d = part; d < a.value_dim; d += 8) sums[mine * LONGEST + d] = 0.0f;
    float greatest = FAR, total = 0.0f;
    for (int key = 0; key < a.keys; key += KEYS) {
        float scores[EACH];
        for (int j = 0; j < EACH; j++) scores[j] = 0.0f;
        for (int from = 0; from < a.dim; from += SLICE) {
            __syncthreads();
            for (int i = thread; i < QUERIES * SLICE; i += 128) {
                int row = i / SLICE, d = i % SLICE;
                bool inside = first + row < a.queries && from + d < a.dim;
                qs[row * (SLICE + 1) + d] = inside ? widen(q[(first + row) * a.qs.token + (from + d) * a.qs.dim]) : 0.0f;
            }
            for (int i = thread; i < KEYS * SLICE; i += 128) {
                int row = i / SLICE, d = i % SLICE;
                bool inside = key + row < a.keys && from + d < a.dim;
                ks[row * (SLICE + 1) + d] = inside ? widen(k[(key + row) * a.ks.token + (from + d) * a.ks.dim]) : 0.0f;
            }
            __syncthreads();
            for (int d = 0; d < SLICE; d++)
                for (int j = 0; j < EACH; j++) scores[j] += qs[mine * (SLICE + 1) + d] * ks[(part + j * 8) * (SLICE + 1) + d];
        }
        float high = greatest;
        for (int j = 0; j < EACH; j++) {
            scores[j] = key + part + j * 8 < a.keys ? scores[j] * a.scale : FAR;
            high = fmaxf(high, scores[j]);
        }
        for (int mask = 4; mask > 0; mask /= 2) high = fmaxf(high, other_lane(high, mask));
        float fade = expf(greatest - high), sum = 0.0f;
        greatest = high;
        for (int j = 0; j < EACH; j++) {
            scores[j] = key + part + j * 8 < a.keys ? expf(scores[j] - high) : 0.0f;
            sum += scores[j];
            weights[mine * (KEYS + 1) + part + j * 8] = scores[j];
        }
        for (int mask = 4; mask > 0; mask /= 2) sum += other_lane(sum, mask);
        total = total * fade + sum;
        __syncthreads();
        int last = min(KEYS, a.keys - key);
        for (int d = part; d < a.value_dim; d += 8) {
            float mean = sums[mine * LONGEST + d] * fade;
            for (int n = 0; n < last; n++) mean += weights[mine * (KEYS + 1) + n] * widen(v[(key + n) * a.vs.token + d * a.vs.dim]);
            sums[mine * LONGEST + d] = mean;
        }
    }
    if (first + mine >= a.queries) return;
    Real* out = at<Real>(a.out) + head * a.outs.head + (first + mine) * a.outs.token;
    for (int d = part; d < a.value_dim; d += 8) out[d * a.outs.dim] = narrow(sums[mine * LONGEST + d] / total);
}

KERNEL(attention_128, Attention, 128) { attend<128>(a); }
KERNEL(attention_512, Attention, 128) { attend<512>(a); }

#if FP16

__device__ __forceinline__ unsigned pair_of(float low, float high) {
    return (unsigned)to_half(low).bits | (unsigned)to_half(high).bits << 16;
}

// Rows of up to `DIM` numbers into a tile, zeros beyond. `AS_COLUMNS` turns them into columns.
template <int DIM, int ROWS, int PITCH, bool AS_COLUMNS>
__device__ __forceinline__ void load_rows(const Half* from, const Strides& strides, int first, int rows, int dim, int wide, Half* to) {
    for (int i = threadIdx.x; i < ROWS * (DIM / 8); i += 128) {
        int row = AS_COLUMNS ? i % ROWS : i / (DIM / 8), d = (AS_COLUMNS ? i / ROWS : i % (DIM / 8)) * 8;
        const Half* source = from + (first + row) * strides.token;
        Wide values;
        bool inside = first + row < rows;
        if (wide && inside && d < dim) {
            values = *reinterpret_cast<const Wide*>(source + d);
        } else {
            for (int n = 0; n < 8; n++) values.values[n] = inside && d + n < dim ? source[(d + n) * strides.dim] : to_half(0.0f);
        }
        if (AS_COLUMNS) {
            for (int n = 0; n < 8; n++) to[(d + n) * PITCH + row] = values.values[n];
        } else {
            *reinterpret_cast<Wide*>(to + row * PITCH + d) = values;
        }
    }
}

// 64 queries by four warps, sixteen to a warp, for heads of up to `DIM` numbers, on the tensor cores. The scores of a
// warp are in its registers; as weights they are already where the second product wants them.
template <int DIM>
__device__ __forceinline__ void attend_tensor(const Attention& a) {
    enum { QUERIES = 64, KEYS = 32, ROW = DIM + 8, COLUMN = KEYS + 8 };
    SHARED(Half, qs, QUERIES * ROW);
    SHARED(Half, ks, KEYS * ROW);
    SHARED(Half, vs, DIM * COLUMN);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, pair = lane % 4 * 2;
    int first = blockIdx.x * QUERIES, head = blockIdx.y;
    const Half* k = at<const Half>(a.k) + head * a.ks.head;
    const Half* v = at<const Half>(a.v) + head * a.vs.head;
    load_rows<DIM, QUERIES, ROW, false>(at<const Half>(a.q) + head * a.qs.head, a.qs, first, a.queries, a.dim, a.wide, qs);
    float sums[DIM / 8][4], greatest[2] = {FAR, FAR}, total[2] = {0.0f, 0.0f};
    for (int j = 0; j < DIM / 8; j++)
        for (int n = 0; n < 4; n++) sums[j][n] = 0.0f;
    const Half* mine = qs + (warp * 16 + group) * ROW + pair;
    for (int key = 0; key < a.keys; key += KEYS) {
        __syncthreads();
        load_rows<DIM, KEYS, ROW, false>(k, a.ks, key, a.keys, a.dim, a.wide, ks);
        load_rows<DIM, KEYS, COLUMN, true>(v, a.vs, key, a.keys, a.value_dim, a.wide, vs);
        __syncthreads();
        float scores[KEYS / 8][4];
        for (int j = 0; j < KEYS / 8; j++)
            for (int n = 0; n < 4; n++) scores[j][n] = 0.0f;
        for (int d = 0; d < DIM; d += 16) {
            unsigned left[4];
            for (int n = 0; n < 4; n++) left[n] = *reinterpret_cast<const unsigned*>(mine + n % 2 * 8 * ROW + d + n / 2 * 8);
            for (int j = 0; j < KEYS / 8; j++) {
                unsigned right[2];
                for (int n = 0; n < 2; n++) right[n] = *reinterpret_cast<const unsigned*>(ks + (j * 8 + group) * ROW + d + pair + n * 8);
                tensor_product(scores[j], left, right);
            }
        }
        // The rows `group` and `group + 8` of the warp's scores are each held by four neighbouring lanes.
        float high[2] = {greatest[0], greatest[1]}, sum[2] = {0.0f, 0.0f}, fade[2];
        for (int j = 0; j < KEYS / 8; j++)
            for (int n = 0; n < 4; n++) {
                scores[j][n] = key + j * 8 + pair + n % 2 < a.keys ? scores[j][n] * a.scale : FAR;
                high[n / 2] = fmaxf(high[n / 2], scores[j][n]);
            }
        for (int r = 0; r < 2; r++) {
            for (int mask = 2; mask > 0; mask /= 2) high[r] = fmaxf(high[r], other_lane(high[r], mask));
            fade[r] = expf(greatest[r] - high[r]);
            greatest[r] = high[r];
        }
        for (int j = 0; j < KEYS / 8; j++)
            for (int n = 0; n < 4; n++) {
                scores[j][n] = key + j * 8 + pair + n % 2 < a.keys ? expf(scores[j][n] - high[n / 2]) : 0.0f;
                sum[n / 2] += scores[j][n];
            }
        for (int r = 0; r < 2; r++) {
            for (int mask = 2; mask > 0; mask /= 2) sum[r] += other_lane(sum[r], mask);
            total[r] = total[r] * fade[r] + sum[r];
        }
        for (int j = 0; j < DIM / 8; j++)
            for (int n = 0; n < 4; n++) sums[j][n] *= fade[n / 2];
        for (int n = 0; n < KEYS / 16; n++) {
            unsigned left[4] = {pair_of(scores[2 * n][0], scores[2 * n][1]), pair_of(scores[2 * n][2], scores[2 * n][3]),
                                pair_of(scores[2 * n + 1][0], scores[2 * n + 1][1]), pair_of(scores[2 * n + 1][2], scores[2 * n + 1][3])};
            for (int j = 0; j < DIM / 8; j++) {
                unsigned right[2];
                for (int i = 0; i < 2; i++) right[i] = *reinterpret_cast<const unsigned*>(vs + (j * 8 + group) * COLUMN + n * 16 + pair + i * 8);
                tensor_product(sums[j], left, right);
            }
        }
    }
    Half* out = at<Half>(a.out) + head * a.outs.head;
    for (int j = 0; j < DIM / 8; j++)
        for (int n = 0; n < 4; n++) {
            int query = first + warp * 16 + group + n / 2 * 8, d = j * 8 + pair + n % 2;
            if (query < a.queries && d < a.value_dim) out[query * a.outs.token + d * a.outs.dim] = to_half(sums[j][n] / total[n / 2]);
        }
}

KERNEL(attention_tensor_32, Attention, 128) { attend_tensor<32>(a); }
KERNEL(attention_tensor_48, Attention, 128) { attend_tensor<48>(a); }
KERNEL(attention_tensor_64, Attention, 128) { attend_tensor<64>(a); }
KERNEL(attention_tensor_96, Attention, 128) { attend_tensor<96>(a); }
KERNEL(attention_tensor_128, Attention, 128) { attend_tensor<128>(a); }

#endif
