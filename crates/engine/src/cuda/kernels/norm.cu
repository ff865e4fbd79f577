// Norms and softmax. Sums are taken in a fixed order, so the same input gives the same bits.

struct RowNorm {
    Place x, gamma, beta, out;
    int rows, inner, centred;
    float eps;
};

// A warp for each row.
KERNEL(row_norm, RowNorm, 128) {
    int lane = threadIdx.x % 32, row = blockIdx.x * 4 + threadIdx.x / 32;
    bool inside = row < a.rows;
    const Real* x = at<const Real>(a.x) + (long long)(inside ? row : 0) * a.inner;
    float mean = 0.0f;
    if (a.centred) {
        for (int i = lane; i < a.inner; i += 32) mean += widen(x[i]);
        mean = warp_sum(mean) / a.inner;
    }
    float squares = 0.0f;
    for (int i = lane; i < a.inner; i += 32) {
        float d = widen(x[i]) - mean;
        squares += d * d;
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / a.inner + a.eps);
    if (!inside) return;
    Real* out = at<Real>(a.out) + (long long)row * a.inner;
    const float* gamma = at<const float>(a.gamma);
    const float* beta = at<const float>(a.beta);
    for (int i = lane; i < a.inner; i += 32) {
        float y = (widen(x[i]) - mean) * scale;
        if (a.gamma.address) y *= gamma[i];
        if (a.beta.address) y += beta[i];
        out[i] = narrow(y);
    }
}

struct Softmax {
    Place x, out;  // [outer, length, inner]
    int outer, length, inner, log;
};

// A warp for each sum.
KERNEL(softmax, Softmax, 128) {
    int lane = threadIdx.x % 32, sum = blockIdx.x * 4 + threadIdx.x / 32;
    bool inside = sum < a.outer * a.inner;
    if (!inside) sum = 0;
    long long first = (long long)(sum / a.inner) * a.length * a.inner + sum % a.inner;
    const Real* x = at<const Real>(a.x) + first;
    float high = -3.4e38f, total = 0.0f;
    for (int i = lane; i < a.length; i += 32) high = fmaxf(high, widen(x[(long long)i * a.inner]));
    high = warp_max(high);
    for (int i = lane; i < a.length; i += 32) total += expf(widen(x[(long long)i * a.inner]) - high);
    total = warp_sum(total);
    if (!inside) return;
    Real* out = at<Real>(a.out) + first;
    for (int i = lane; i < a.length; i += 32) {
        float y = widen(x[(long long)i * a.inner]) - high;
        out[(long long)i * a.inner] = narrow(a.log ? y - logf(total) : expf(y) / total);
    }
}

struct GroupNorm {
    Place x, parts, affine, gamma, beta, out;  // x: [pixels, channels]; parts and affine in fp32
    int pixels, channels, groups, chunk, chunks, activation;
    float eps;
};

// First, for each chunk of pixels and each channel: the mean, and the sum of squared distances from it.
KERNEL(group_parts, GroupNorm, 128) {
    const Real* x = at<const Real>(a.x);
    float* parts = at<float>(a.parts) + (long long)blockIdx.x * a.channels * 2;
    int first = blockIdx.x * a.chunk, last = min(first + a.chunk, a.pixels);
    for (int c = blockIdx.y * 128 + threadIdx.x; c < a.channels; c += 128 * gridDim.y) {
        float mean = 0.0f, squares = 0.0f;
        for (int p = first; p < last; p++) mean += widen(x[(long long)p * a.channels + c]);
        mean /= last - first;
        for (int p = first; p < last; p++) {
            float d = widen(x[(long long)p * a.channels + c]) - mean;
            squares += d * d;
        }
        parts[c * 2] = mean;
        parts[c * 2 + 1] = squares;
    }
}

// Then a warp for each group: what the norm comes to for each channel, a factor and a term.
KERNEL(group_affine, GroupNorm, 32) {
    const float* parts = at<const float>(a.parts);
    float* affine = at<float>(a.affine);
    int lane = threadIdx.x, width = a.channels / a.groups, first = blockIdx.x * width;
    float count = (float)a.pixels * width, mean = 0.0f, squares = 0.0f;
    for (int i = lane; i < a.chunks * width; i += 32) {
        int chunk = i / width, c = first + i % width;
        mean += parts[((long long)chunk * a.channels + c) * 2] * (min(a.chunk, a.pixels - chunk * a.chunk) / count);
    }
    mean = warp_sum(mean);
    for (int i = lane; i < a.chunks * width; i += 32) {
        int chunk = i / width, c = first + i % width;
        const float* part = parts + ((long long)chunk * a.channels + c) * 2;
        float d = part[0] - mean;
        squares += part[1] + d * d * min(a.chunk, a.pixels - chunk * a.chunk);
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / count + a.eps);
    for (int i = lane; i < width; i += 32) {
        float factor = a.gamma.address ? at<const float>(a.gamma)[first + i] * scale : scale;
        affine[(first + i) * 2] = factor;
        affine[(first + i) * 2 + 1] = (a.beta.address ? at<const float>(a.beta)[first + i] : 0.0f) - mean * factor;
    }
}

// Then each number.
KERNEL(group_apply, GroupNorm, 256) {
    const Real* x = at<const Real>(a.x);
    const float* affine = at<const float>(a.affine);
    Real* out = at<Real>(a.out);
    long long count = (long long)a.pixels * a.channels;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < count; i += (long long)gridDim.x * 256) {
        int c = (int)(i % a.channels);
        out[i] = narrow(activate(a.activation, widen(x[i]) * affine[c * 2] + affine[c * 2 + 1]));
    }
}
