// The CPU kernels: each walks all sources together in blocks that stay in the first-level cache, so that every source
// byte is read once and every output byte written once. They do the same float32 operations in the same order as the
// torch formulas in kernels.py, and tests hold the two to the same bits.
// Build with -ffp-contract=off: a fused multiply-add rounds once where the formulas round twice.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t BLOCK = 1024;

enum Type { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

int64_t width(int type) { return type == FLOAT32 ? 4 : 2; }

uint32_t bits_of(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    return b;
}

float float_of(uint32_t b) {
    float x;
    std::memcpy(&x, &b, 4);
    return x;
}

uint32_t rounded_to_bfloat16(uint32_t b) {
    const uint32_t rounded = b + 0x7fffu + ((b >> 16) & 1u);
    return (b & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : rounded;
}

// x where a condition holds, else zero, by bits: compilers turn the plain form into branches here and there.
float where(bool condition, float x) { return float_of(bits_of(x) & (0u - uint32_t(condition))); }

void from_half(const _Float16* __restrict__ x, int64_t n, float* __restrict__ y) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
#endif
    for (; i < n; i++) y[i] = float(x[i]);
}

void to_half(const float* __restrict__ x, int64_t n, _Float16* __restrict__ y) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
#endif
    for (; i < n; i++) y[i] = _Float16(x[i]);
}

// Source elements as floats; float32 is read in place. The block after them is asked for, since the hardware's own
// foresight does not reach over so many sources.
const float* load(const char* source, int type, int64_t at, int64_t n, float* __restrict__ buffer) {
    const char* next = source + (at + n) * width(type);
    for (int64_t i = 0; i < n * width(type); i += 64) __builtin_prefetch(next + i, 0, 2);
    if (type == FLOAT32) return reinterpret_cast<const float*>(source) + at;
    if (type == BFLOAT16) {
        const uint16_t* x = reinterpret_cast<const uint16_t*>(source) + at;
        for (int64_t i = 0; i < n; i++) buffer[i] = float_of(uint32_t(x[i]) << 16);
    } else {
        from_half(reinterpret_cast<const _Float16*>(source) + at, n, buffer);
    }
    return buffer;
}

// Copies a block past the caches, which a result that is larger than they are would only flush.
void stream(const void* from, char* to, int64_t bytes) {
    int64_t i = 0;
#ifdef __AVX2__
    if (reinterpret_cast<uintptr_t>(to) % 32 == 0)
        for (; i + 32 <= bytes; i += 32)
            _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const char*>(from) + i)));
#endif
    std::memcpy(to + i, static_cast<const char*>(from) + i, bytes - i);
}

void store(const float* __restrict__ x, char* target, int type, int64_t at, int64_t n) {
    if (type == FLOAT32) {
        stream(x, target + at * 4, n * 4);
    } else if (type == BFLOAT16) {
        alignas(64) uint16_t y[BLOCK];
        for (int64_t i = 0; i < n; i++) y[i] = uint16_t(rounded_to_bfloat16(bits_of(x[i])) >> 16);
        stream(y, target + at * 2, n * 2);
    } else {
        alignas(64) _Float16 y[BLOCK];
        to_half(x, n, y);
        stream(y, target + at * 2, n * 2);
    }
}

// Magnitudes of differences as the type that trims are ranked in would hold them.
void magnitudes(const float* __restrict__ d, int type, int64_t n, float* __restrict__ key) {
    if (type == FLOAT32) {
        for (int64_t i = 0; i < n; i++) key[i] = std::fabs(d[i]);
    } else if (type == BFLOAT16) {
        for (int64_t i = 0; i < n; i++) key[i] = float_of(rounded_to_bfloat16(bits_of(d[i])) & 0x7fff0000u);
    } else {
        alignas(64) _Float16 rounded[BLOCK];
        to_half(d, n, rounded);
        from_half(rounded, n, key);
        for (int64_t i = 0; i < n; i++) key[i] = std::fabs(key[i]);
    }
}

void subtract(const float* __restrict__ x, const float* __restrict__ base, int64_t n, float* __restrict__ d) {
    for (int64_t i = 0; i < n; i++) d[i] = x[i] - base[i];
}

// Calls work(i) on so many threads. They are plain ones, since a second OpenMP runtime beside torch's would fight it for
// the cores.
template <class Work>
void together(int64_t threads, Work work) {
    std::vector<std::thread> others;
    for (int64_t i = 1; i < threads; i++) others.emplace_back(work, i);
    work(0);
    for (std::thread& other : others) other.join();
}

// Calls part(block, begin, end) for what each block has in a range.
template <class Part>
void by_block(int64_t blocks, const int64_t* ends, int64_t begin, int64_t end, Part part) {
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t from = std::max(begin, block ? ends[block - 1] : 0), to = std::min(end, ends[block]);
        if (from < to) part(block, from, to);
    }
}

// Calls part(i, begin, end) for the i-th of `threads` ranges that make up `count`, some of which may be empty.
template <class Part>
void spread(int64_t threads, int64_t count, Part part) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK, step = (blocks + threads - 1) / threads * BLOCK;
    together(threads, [=](int64_t i) { part(i, std::min(count, i * step), std::min(count, (i + 1) * step)); });
}

}  // namespace

extern "C" {

// What a trim keeps: floor <= magnitude <= ceiling, both with one value up to an index and another after it.
struct Band {
    float floor_head, floor_tail, ceiling_head, ceiling_tail;
    int64_t floor_cut, ceiling_cut;
};

struct Merge {
    int64_t experts;
    const char* base;
    const char* const* sources;
    const int* types;  // of base and sources
    int key_type;
    const Band* bands;           // or null
    const uint8_t* const* bits;  // or null; bit i % 8 of byte i / 8
    const float* rescale;        // or null
    const float* weights;        // [blocks, experts]
    int consensus, normalize;
    float divisor, scale;
    char* out;
    int out_type;
};

struct Between {
    int64_t begin, below, found;
};
}

namespace {

void trim(const Band& band, int key_type, int64_t index, int64_t n, float* __restrict__ d) {
    alignas(64) float key[BLOCK];
    magnitudes(d, key_type, n, key);
    int64_t from = 0;
    while (from < n) {
        const bool floor_head = index + from <= band.floor_cut, ceiling_head = index + from <= band.ceiling_cut;
        int64_t to = n;
        if (floor_head) to = std::min(to, band.floor_cut + 1 - index);
        if (ceiling_head) to = std::min(to, band.ceiling_cut + 1 - index);
        const float floor = floor_head ? band.floor_head : band.floor_tail;
        const float ceiling = ceiling_head ? band.ceiling_head : band.ceiling_tail;
        for (int64_t i = from; i < to; i++) d[i] = where((key[i] >= floor) & (key[i] <= ceiling), d[i]);
        from = to;
    }
}

void mask(const uint8_t* bits, int64_t index, int64_t n, float* __restrict__ d) {
    const auto kept = [=](int64_t i) { return (bits[(index + i) >> 3] >> ((index + i) & 7)) & 1u; };
    int64_t i = 0;
    for (; i < n && (index + i) % 8; i++) d[i] = where(kept(i), d[i]);
    for (; i + 8 <= n; i += 8) {
        const uint32_t byte = bits[(index + i) >> 3];
        for (int64_t j = 0; j < 8; j++) d[i + j] = where((byte >> j) & 1u, d[i + j]);
    }
    for (; i < n; i++) d[i] = where(kept(i), d[i]);
}

// The vectors of all experts as they are trimmed and rescaled, one block after another.
void trimmed(const Merge& merge, int64_t at, int64_t n, int64_t first, const float* __restrict__ base,
             float* __restrict__ vectors) {
    alignas(64) float buffer[BLOCK];
    for (int64_t k = 0; k < merge.experts; k++) {
        float* __restrict__ d = vectors + k * BLOCK;
        subtract(load(merge.sources[k], merge.types[k + 1], at, n, buffer), base, n, d);
        if (merge.bands) trim(merge.bands[k], merge.key_type, first + at, n, d);
        if (merge.bits) mask(merge.bits[k], first + at, n, d);
        if (merge.rescale) {
            const float rescale = merge.rescale[k];
            for (int64_t i = 0; i < n; i++) d[i] *= rescale;
        }
    }
}

// The sum of the weights, or 1 where it is next to nothing.
float plain_divisor(const Merge& merge) {
    float total = merge.weights[0];
    for (int64_t k = 1; k < merge.experts; k++) total += merge.weights[k];
    return std::fabs(total) < 1e-8f ? 1.0f : total;
}

// The merged elements from the weighted vectors of all experts, which lie one block after another. With the number of
// experts known to the compiler, all of it stays in registers.
template <int experts, bool consensus, bool normalize>
void combine(const Merge& merge, const float* __restrict__ vectors, const float* __restrict__ base, int64_t n,
             float* __restrict__ total) {
    const int64_t count = experts ? experts : merge.experts;
    const float scale = merge.scale;
    const float* __restrict__ weights = merge.weights;
    for (int64_t i = 0; i < n; i++) {
        float sum = vectors[i], divisor = merge.divisor;
#pragma GCC unroll 8
        for (int64_t k = 1; k < count; k++) sum += vectors[k * BLOCK + i];
        if (consensus) {
            const float sign = sum >= 0.0f ? 1.0f : -1.0f;
            float agreeing = 0.0f, weight = 0.0f;
#pragma GCC unroll 8
            for (int64_t k = 0; k < count; k++) {
                const float vector = vectors[k * BLOCK + i];
                const bool agrees = vector * sign > 0.0f;
                agreeing += where(agrees, vector);
                weight += where(agrees, weights[k]);
            }
            sum = agreeing;
            weight = weight == 0.0f ? 1.0f : weight;
            divisor = weight;
        }
        total[i] = base[i] + (normalize ? sum / divisor : sum) * scale;
    }
}

using Combine = void (*)(const Merge&, const float*, const float*, int64_t, float*);

template <bool consensus, bool normalize>
Combine combine_of(int64_t experts) {
    constexpr Combine known[] = {
        combine<0, consensus, normalize>, combine<1, consensus, normalize>, combine<2, consensus, normalize>,
        combine<3, consensus, normalize>, combine<4, consensus, normalize>, combine<5, consensus, normalize>,
        combine<6, consensus, normalize>, combine<7, consensus, normalize>, combine<8, consensus, normalize>};
    return known[experts <= 8 ? experts : 0];
}

Combine combine_of(const Merge& merge) {
    const int64_t experts = merge.experts;
    if (merge.consensus) return merge.normalize ? combine_of<true, true>(experts) : combine_of<true, false>(experts);
    return merge.normalize ? combine_of<false, true>(experts) : combine_of<false, false>(experts);
}

}  // namespace

namespace {

Merge of_block(Merge merge, int64_t block) {
    merge.weights += block * merge.experts;
    return merge;
}

// Room for a block of every expert.
struct Vectors {
    float* all;
    explicit Vectors(int64_t experts) : all(new (std::align_val_t(64)) float[experts * BLOCK]) {}
    Vectors(const Vectors&) = delete;
    ~Vectors() { operator delete[](all, std::align_val_t(64)); }
};

void task_vectors_part(const Merge& merge, int64_t begin, int64_t end, int64_t first, float* vectors) {
    alignas(64) float buffer[BLOCK], total[BLOCK];
    const Combine run = combine_of(merge);
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t n = std::min(BLOCK, end - at);
        const float* base = load(merge.base, merge.types[0], at, n, buffer);
        trimmed(merge, at, n, first, base, vectors);
        for (int64_t k = 0; k < merge.experts; k++) {
            float* __restrict__ d = vectors + k * BLOCK;
            const float weight = merge.weights[k];
            for (int64_t i = 0; i < n; i++) d[i] *= weight;
        }
        run(merge, vectors, base, n, total);
        store(total, merge.out, merge.out_type, at, n);
    }
}

void weighted_sum_part(const Merge& merge, int64_t begin, int64_t end) {
    alignas(64) float buffer[BLOCK], total[BLOCK];
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t n = std::min(BLOCK, end - at);
        for (int64_t k = 0; k < merge.experts; k++) {
            const float* __restrict__ x = load(merge.sources[k], merge.types[k + 1], at, n, buffer);
            const float weight = merge.weights[k];
            if (k == 0) std::fill_n(total, n, 0.0f);
            for (int64_t i = 0; i < n; i++) total[i] = std::fma(x[i], weight, total[i]);
        }
        if (merge.normalize) {
            for (int64_t i = 0; i < n; i++) total[i] /= merge.divisor;
        }
        store(total, merge.out, merge.out_type, at, n);
    }
}

// Leaves of each vector what the merged element's derivative by its weight is made of: nothing where its sign is not
// that of the weighted sum; with `normalize`, less the mean and divided as the sum is.
void agree(const Merge& merge, int64_t n, float* __restrict__ vectors) {
    alignas(64) float sign[BLOCK] = {0}, mean[BLOCK] = {0}, divisor[BLOCK] = {0};
    for (int64_t k = 0; k < merge.experts; k++)
        for (int64_t i = 0; i < n; i++) sign[i] += vectors[k * BLOCK + i] * merge.weights[k];
    for (int64_t i = 0; i < n; i++) sign[i] = sign[i] >= 0.0f ? 1.0f : -1.0f;
    for (int64_t k = 0; merge.normalize && k < merge.experts; k++) {
        const float weight = merge.weights[k];
        for (int64_t i = 0; i < n; i++) {
            const float weighted = vectors[k * BLOCK + i] * weight;
            mean[i] += where(weighted * sign[i] > 0.0f, weighted);
            divisor[i] += where(weighted * sign[i] > 0.0f, weight);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        mean[i] = where(divisor[i] != 0.0f, mean[i] / divisor[i]);
        divisor[i] = divisor[i] == 0.0f ? 1.0f : divisor[i];
    }
    for (int64_t k = 0; k < merge.experts; k++) {
        float* __restrict__ vector = vectors + k * BLOCK;
        const float weight = merge.weights[k];
        for (int64_t i = 0; i < n; i++)
            vector[i] = where(vector[i] * weight * sign[i] > 0.0f, (vector[i] - mean[i]) / divisor[i]);
    }
}

void dot_products_part(const Merge& merge, int64_t begin, int64_t end, int64_t first, const char* gradient, int type,
                       float* vectors, double* dots) {
    alignas(64) float base_buffer[BLOCK], buffer[BLOCK];
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t n = std::min(BLOCK, end - at);
        std::fill_n(base_buffer, merge.base ? 0 : n, 0.0f);
        const float* base = merge.base ? load(merge.base, merge.types[0], at, n, base_buffer) : base_buffer;
        trimmed(merge, at, n, first, base, vectors);
        if (merge.consensus) agree(merge, n, vectors);
        const float* __restrict__ g = load(gradient, type, at, n, buffer);
        for (int64_t k = 0; k < merge.experts; k++) {
            const float* __restrict__ x = vectors + k * BLOCK;
            float lanes[16] = {0};
            int64_t i = 0;
            for (; i + 16 <= n; i += 16)
                for (int j = 0; j < 16; j++) lanes[j] += g[i + j] * x[i + j];
            for (; i < n; i++) lanes[0] += g[i] * x[i];
            double sum = 0;
            for (int j = 0; j < 16; j++) sum += lanes[j];
            dots[k] += sum;
        }
    }
}

void sample_part(const Merge& merge, int64_t begin, int64_t end, int64_t step, float* keys) {
    float base_buffer[1], buffer[1], d[1];
    for (int64_t i = begin; i < end; i++) {
        const float* base = load(merge.base, merge.types[0], i * step, 1, base_buffer);
        subtract(load(merge.sources[0], merge.types[1], i * step, 1, buffer), base, 1, d);
        magnitudes(d, merge.key_type, 1, keys + i);
    }
}

void between_part(const Merge& merge, int64_t begin, int64_t end, float floor, float ceiling, float* keys, Between* counts) {
    alignas(64) float base_buffer[BLOCK], buffer[BLOCK], d[BLOCK], key[BLOCK];
    alignas(64) uint8_t inside[BLOCK];
    int64_t below = 0, found = begin;
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t n = std::min(BLOCK, end - at);
        const float* base = load(merge.base, merge.types[0], at, n, base_buffer);
        subtract(load(merge.sources[0], merge.types[1], at, n, buffer), base, n, d);
        magnitudes(d, merge.key_type, n, key);
        int32_t smaller = 0;
        for (int64_t i = 0; i < n; i++) smaller += key[i] < floor;
        below += smaller;
        for (int64_t i = 0; i < n; i++) inside[i] = (key[i] >= floor) & (key[i] <= ceiling);
        for (int64_t i = n; i < BLOCK; i++) inside[i] = 0;
        for (int64_t i = 0; i < n; i += 8) {  // few are inside, so eight are passed over at once
            uint64_t eight;
            std::memcpy(&eight, inside + i, 8);
            for (; eight; eight &= eight - 1) keys[found++] = key[i + (__builtin_ctzll(eight) >> 3)];
        }
    }
    *counts = {begin, below, found - begin};
}

}  // namespace

extern "C" {

// base + scale * (weighted task vectors), of a part whose first element has global index `first`; each block of it has
// weights of its own.
void task_vectors(const Merge* merge, int64_t threads, int64_t count, int64_t first, int64_t blocks,
                  const int64_t* ends) {
    spread(threads, count, [=](int64_t, int64_t begin, int64_t end) {
        const Vectors vectors(merge->experts);
        by_block(blocks, ends, begin, end, [&](int64_t block, int64_t from, int64_t to) {
            Merge own = of_block(*merge, block);
            own.divisor = plain_divisor(own);
            task_vectors_part(own, from, to, first, vectors.all);
        });
    });
}

// Weighted sum of the sources divided by `divisor`; each product is added with one rounding, as torch.addcmul does.
void weighted_sum(const Merge* merge, int64_t threads, int64_t count) {
    spread(threads, count, [=](int64_t, int64_t begin, int64_t end) { weighted_sum_part(*merge, begin, end); });
}

// <gradient, what weight k multiplies> of every block, [blocks, experts].
void dot_products(const Merge* merge, int64_t threads, int64_t count, int64_t first, int64_t blocks, const int64_t* ends,
                  const char* gradient, int type, double* dots) {
    const int64_t size = blocks * merge->experts;
    std::vector<double> each(threads * size);
    spread(threads, count, [=, &each](int64_t i, int64_t begin, int64_t end) {
        const Vectors vectors(merge->experts);
        by_block(blocks, ends, begin, end, [&](int64_t block, int64_t from, int64_t to) {
            double* own = each.data() + i * size + block * merge->experts;
            dot_products_part(of_block(*merge, block), from, to, first, gradient, type, vectors.all, own);
        });
    });
    for (size_t i = 0; i < each.size(); i++) dots[i % size] += each[i];
}

// Every `step`-th magnitude of source - base, from the first on.
void sample(const Merge* merge, int64_t threads, int64_t count, int64_t step, float* keys) {
    spread(threads, count, [=](int64_t, int64_t begin, int64_t end) { sample_part(*merge, begin, end, step, keys); });
}

// Collects the magnitudes of source - base within [floor, ceiling], part by part of `size` elements: those of a part lie
// at its beginning in `keys`, and `counts` has for each part where it begins, how many lie below, and how many inside.
void between(const Merge* merge, int64_t threads, int64_t count, float floor, float ceiling, int64_t size, float* keys,
             Between* counts) {
    std::atomic<int64_t> next{0};
    together(threads, [=, &next](int64_t) {
        for (int64_t i = next++; i * size < count; i = next++)
            between_part(*merge, i * size, std::min(count, (i + 1) * size), floor, ceiling, keys, counts + i);
    });
}

// Index of the `wanted`-th element from 1 of [begin, end) whose magnitude is `value`; -1 if there are fewer.
int64_t nth_equal(const Merge* given, int64_t begin, int64_t end, float value, int64_t wanted) {
    const Merge& merge = *given;
    alignas(64) float base_buffer[BLOCK], buffer[BLOCK], d[BLOCK], key[BLOCK];
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t n = std::min(BLOCK, end - at);
        const float* base = load(merge.base, merge.types[0], at, n, base_buffer);
        subtract(load(merge.sources[0], merge.types[1], at, n, buffer), base, n, d);
        magnitudes(d, merge.key_type, n, key);
        for (int64_t i = 0; i < n; i++)
            if (key[i] == value && --wanted == 0) return at + i;
    }
    return -1;
}
}
