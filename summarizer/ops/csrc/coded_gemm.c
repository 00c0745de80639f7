/* y = x W^T + bias + scale (x A^T) B for a few rows of x with W in bytes, each one of 256 numbers of a code, in blocks that
 * share a factor: blockwise8 (4,096 weights and their absmax, across the ends of rows) and fp8 (a row and its scale).
 *
 * As decode_gemm.c does with nf4, a code's numbers are whole ones on the grid of its largest, here of 16 bits, for which the
 * numbers near zero lose the most: they err by up to half a step, 1/65278 of the largest. Their two bytes (256 high + low,
 * both signed, stored + 128) are looked up for themselves, 64 at a time: a table of bytes has four registers, of which
 * vpermi2b reads two and the highest bit of a weight chooses. x is two signed bytes as well, so that vpdpbusd sums four
 * products for each weight and row. A block's sums are exact, and multiplied with its factor in fp64.
 */
#include "whole_numbers.h"

#ifndef __AVX512VBMI__
#error "made for processors that have AVX-512 with VBMI"
#endif

#define SHIFT 128 /* of both bytes of a code, so that they are unsigned */
#define SEGMENT (1 << 18) /* weights whose products fit sums of 32 bits, in 16 lanes: 2 * 255 * 128 for each pair of bytes */

typedef struct {
    __m512i high[4], low[4]; /* + SHIFT */
    float step;
} Codes;

static Codes codes_of(const float *code /* (256) */) {
    uint8_t high[256], low[256];
    float step, inverse = grid(code, 256, &step);
    for (int i = 0; i < 256; i++) {
        int q = (int)lrintf(code[i] * inverse), upper = (q + SHIFT) >> 8;
        high[i] = upper + SHIFT;
        low[i] = q - 256 * upper + SHIFT;
    }
    Codes codes = {.step = step};
    FOR(i, 4) codes.high[i] = _mm512_loadu_si512(high + BYTES * i), codes.low[i] = _mm512_loadu_si512(low + BYTES * i);
    return codes;
}

/* sums[i]: of x's first i whole numbers, to take away what SHIFT adds to any stretch of a row. */
static void running_sums(const Whole *x, long k, long row, int64_t *sums /* (k + 1) */) {
    const int8_t *high = x->high + row * x->padded, *low = x->low + row * x->padded;
    sums[0] = 0;
    for (long i = 0; i < k; i++) sums[i + 1] = sums[i] + 256 * high[i] + low[i];
}

INLINE __m512i looked_up(const __m512i table[4], __m512i places, __mmask64 upper) {
    return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(table[0], places, table[1]),
                                  _mm512_permutex2var_epi8(table[2], places, table[3]));
}

/* The products of one register of weights with M rows of x, zeros where no weight is there. */
INLINE void coded_step(const int M, const Codes *codes, const Whole *x, const uint8_t *w, long row, long at,
                       __mmask64 there, __m512i high[MOST], __m512i middle[MOST], __m512i low[MOST]) {
    _mm_prefetch((const char *)w + at + AHEAD, _MM_HINT_T1);
    __m512i places = _mm512_maskz_loadu_epi8(there, w + at);
    __mmask64 upper = _mm512_movepi8_mask(places);
    __m512i of_high = looked_up(codes->high, places, upper), of_low = looked_up(codes->low, places, upper);
    FOR(i, M) {
        __m512i x_high = _mm512_maskz_loadu_epi8(there, x->high + (row + i) * x->padded + at);
        __m512i x_low = _mm512_maskz_loadu_epi8(there, x->low + (row + i) * x->padded + at);
        high[i] = _mm512_dpbusd_epi32(high[i], of_high, x_high);
        middle[i] = _mm512_dpbusd_epi32(middle[i], of_high, x_low);
        middle[i] = _mm512_dpbusd_epi32(middle[i], of_low, x_high);
        low[i] = _mm512_dpbusd_epi32(low[i], of_low, x_low);
    }
}

/* M rows of x by a row of W, block by block. */
INLINE void coded_tile(const int M, const Product *p, const Whole *x, const int64_t *x_sums, const uint8_t *w,
                       const float *factors, long block, const Codes *codes, long row, long column) {
    double y[MOST];
    FOR(i, M) y[i] = 0;
    const long before = column * p->k;
    w += before;
    for (long from = 0, to; from < p->k; from = to) {
        const long of_block = (before + from) / block;
        to = (of_block + 1) * block - before;
        if (to > p->k) to = p->k;
        if (to > from + SEGMENT) to = from + SEGMENT;
        __m512i high[MOST], middle[MOST], low[MOST];
        FOR(i, M) high[i] = middle[i] = low[i] = _mm512_setzero_si512();
        long at = from;
        for (; at + BYTES <= to; at += BYTES) coded_step(M, codes, x, w, row, at, ~0ull, high, middle, low);
        if (at < to) coded_step(M, codes, x, w, row, at, (1ull << (to - at)) - 1, high, middle, low);
        FOR(i, M) {
            const int64_t *sums = x_sums + (row + i) * (p->k + 1);
            int64_t shifted = 65536 * total(high[i]) + 256 * total(middle[i]) + total(low[i]);
            y[i] += (double)(shifted - 257 * SHIFT * (sums[to] - sums[from])) * factors[of_block];
        }
    }
    FOR(i, M) p->y[(row + i) * p->n + column] = (float)(y[i] * codes->step * x->steps[row + i]);
}

static void coded_columns(const Product *p, const Whole *x, const int64_t *x_sums, const uint8_t *w, const float *factors,
                          long block, const Codes *codes, long start, long end) {
    for (long column = start; column < end; column++) {
        long row = 0;
        for (; row + 4 <= p->m; row += 4) coded_tile(4, p, x, x_sums, w, factors, block, codes, row, column);
        for (; row + 2 <= p->m; row += 2) coded_tile(2, p, x, x_sums, w, factors, block, codes, row, column);
        for (; row < p->m; row++) coded_tile(1, p, x, x_sums, w, factors, block, codes, row, column);
    }
}

INLINE int coded_product(const Product *p, const uint8_t *w, const float *factors, const float *code, long block) {
    long padded = up_to(p->k, BYTES);
    int8_t *bytes = aligned_alloc(BYTES, 2 * p->m * padded);
    float *floats = malloc((p->m + p->m * p->dim) * sizeof *floats);
    int64_t *offsets = malloc(p->m * (p->k + 2) * sizeof *offsets);
    int failed = !bytes || !floats || !offsets;
    if (!failed) {
        Whole x = {bytes, bytes + p->m * padded, padded, floats, offsets};
        int64_t *x_sums = offsets + p->m;
        for (long row = 0; row < p->m; row++) {
            whole_numbers(p, &x, row);
            running_sums(&x, p->k, row, x_sums + row * (p->k + 1));
        }
        float *narrow = floats + p->m;
        if (p->dim) narrow_products(p, narrow);
        const Codes codes = codes_of(code);
        IN_CHUNKS(p->k, coded_columns(p, &x, x_sums, w, factors, block, &codes, start, end);)
    }
    free(bytes);
    free(floats);
    free(offsets);
    return failed;
}

/* A factor for each 4,096 weights. Returns 0, or 1 where there is no memory for the rows of x. */
int blockwise8_product(const Product *p, const uint8_t *w /* (n, k) */, const float *absmax, const float *code /* (256) */) {
    return coded_product(p, w, absmax, code, 4096);
}

/* A factor for each row. Returns the same. */
int fp8_product(const Product *p, const uint8_t *w /* (n, k) */, const float *scale /* (n) */, const float *code /* (256) */) {
    return coded_product(p, w, scale, code, p->k);
}
