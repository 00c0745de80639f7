/* y = x W^T + bias + scale (x A^T) B for a few rows of x, at the rate at which memory gives the stored W.
 *
 * Writing a token multiplies one row (a row for each beam, article and trial) with every weight of the model. Nothing is
 * used twice, so that the time is that of reading the weights, if no more is done to each of them than this:
 *
 * int8 weights are multiplied as they lie there. Each row of x becomes whole numbers of 16 bits on its own absmax grid,
 * and those two signed bytes (256 high + low): VNNI's vpdpbusd sums products of an unsigned byte (a weight + 128) and a
 * signed one (of x) into 32 bits. The sums are exact, whatever the order and the threads; x beyond its 16 bits is lost.
 *
 * nf4 weights are looked up in a register of the 16 levels, as whole numbers of 14 bits; vpdpwssd sums products of theirs
 * and x's words, and a block's exact sum is multiplied with its absmax in fp32.
 */
#include "whole_numbers.h"

#define WORDS 32 /* of a register, of 16 bits */
#define BLOCK 64 /* nf4 weights that share an absmax; a register holds two blocks: */
#define REGISTER (2 * BLOCK)
#define CODES 8191 /* nf4's largest level as a whole number */

/* ---- int8 ---- */

/* The products of one register of each row. M and N are constants where this is inlined: sums stay in registers. */
INLINE void int8_step(const int M, const int N, const Product *p, const Whole *x, const int8_t *w, long row, long at,
                      __mmask64 there, __m512i high[MOST][WIDE], __m512i low[MOST][WIDE]) {
    __m512i weights[WIDE];
    FOR(j, N) {
        _mm_prefetch((const char *)w + j * p->k + at + ahead(N, at, p->k), _MM_HINT_T1);
        __m512i stored = _mm512_maskz_loadu_epi8(there, w + j * p->k + at);
        weights[j] = _mm512_xor_si512(stored, _mm512_set1_epi8((char)0x80)); /* + 128 */
    }
    FOR(i, M) {
        __m512i of_high = _mm512_loadu_si512(x->high + (row + i) * x->padded + at);
        __m512i of_low = _mm512_loadu_si512(x->low + (row + i) * x->padded + at);
        FOR(j, N) {
            high[i][j] = _mm512_dpbusd_epi32(high[i][j], weights[j], of_high);
            low[i][j] = _mm512_dpbusd_epi32(low[i][j], weights[j], of_low);
        }
    }
}

/* M rows of x by N rows of W. */
INLINE void int8_tile(const int M, const int N, const Product *p, const Whole *x, const int8_t *w, const float *scale,
                      long row, long column) {
    const int8_t *own = w + column * p->k;
    __m512i high[MOST][WIDE], low[MOST][WIDE];
    FOR(i, M) FOR(j, N) high[i][j] = low[i][j] = _mm512_setzero_si512();
    long at = 0;
    for (; at + BYTES <= p->k; at += BYTES) int8_step(M, N, p, x, own, row, at, ~0ull, high, low);
    if (at < p->k) int8_step(M, N, p, x, own, row, at, (1ull << (p->k - at)) - 1, high, low);
    FOR(i, M) FOR(j, N) {
        int64_t sum = 256 * total(high[i][j]) + total(low[i][j]) - x->offsets[row + i];
        p->y[(row + i) * p->n + column + j] = (float)((double)sum * x->steps[row + i] * scale[column + j]);
    }
}

/* One row of x that the nearest cache does not hold: it is loaded once for many rows of W. */
static void int8_long_row(const Product *p, const Whole *x, const int8_t *w, const float *scale, long start, long end) {
    long column = start;
    for (; column + WIDE <= end; column += WIDE) int8_tile(1, WIDE, p, x, w, scale, 0, column);
    for (; column < end; column++) int8_tile(1, 1, p, x, w, scale, 0, column);
}

/* Returns 0, or 1 where there is no memory for the rows of x. */
int int8_product(const Product *p, const int8_t *w /* (n, k) */, const float *scale /* (n) */) {
    long padded = up_to(p->k, BYTES);
    int8_t *bytes = aligned_alloc(BYTES, 2 * p->m * padded);
    float *floats = malloc((p->m + p->m * p->dim) * sizeof *floats);
    int64_t *offsets = malloc(p->m * sizeof *offsets);
    int failed = !bytes || !floats || !offsets;
    if (!failed) {
        Whole x = {bytes, bytes + p->m * padded, padded, floats, offsets};
        float *narrow = floats + p->m;
        for (long row = 0; row < p->m; row++) whole_numbers(p, &x, row);
        if (p->dim) narrow_products(p, narrow);
        if (p->m == 1 && p->k > LONG) IN_CHUNKS(p->k, int8_long_row(p, &x, w, scale, start, end);)
        else IN_CHUNKS(p->k, TILES(int8_tile, p, &x, w, scale))
    }
    free(bytes);
    free(floats);
    free(offsets);
    return failed;
}

/* ---- nf4: a register holds 128 weights, two blocks; its 32 words hold 4 neighbors each, the first in the high half of
 * the lower byte. A lane has 8 products, of one block, and their sum has 32 bits: 8 * CODES * LEVELS < 2^31. ---- */

typedef struct {
    int16_t *words; /* (m, padded): by register of weights, then by place of the four in a word, then by word */
    long padded;    /* k up to whole registers of weights */
    float *steps;   /* (m); NaN for a row with a value that is not finite */
    __m512i levels; /* twice: the lookup reads five bits of a word, of which the fifth is a neighbor's */
} Words;

static void by_places(const Product *p, Words *w, long row) {
    const __m512i order = _mm512_setr_epi32(1, 5, 9, 13, 0, 4, 8, 12, 3, 7, 11, 15, 2, 6, 10, 14);
    const float *x = p->x + row * p->k;
    float inverse = grid(x, p->k, &w->steps[row]);
    for (long i = 0; i < w->padded; i += FLOATS) {
        __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(first(p->k - i), x + i), _mm512_set1_ps(inverse));
        int16_t q[FLOATS], *out = w->words + row * w->padded + i / REGISTER * REGISTER + i % REGISTER / 4;
        __m512i ordered = _mm512_permutexvar_epi32(order, _mm512_cvtps_epi32(scaled));
        _mm256_storeu_si256((__m256i *)q, _mm512_cvtepi32_epi16(ordered));
        FOR(place, 4) memcpy(out + place * WORDS, q + 4 * place, 4 * sizeof *q);
    }
}

/* As `int8_step`, for the register that w points to; `there` of its two blocks are there. */
INLINE void nf4_step(const int M, const int N, const int there, const int16_t *x, long padded, __m512i levels,
                     const uint8_t *w, long bytes, long early, const float *absmax, __m512 sums[MOST][2]) {
    __m512i block[MOST][2], packed[2];
    FOR(j, N) {
        _mm_prefetch((const char *)w + j * bytes + early, _MM_HINT_T1);
        packed[j] = _mm512_maskz_loadu_epi32(there == 2 ? 0xffff : 0x00ff, w + j * bytes);
        __asm__("" : "+v"(packed[j])); /* GCC would load it again for each shift, and loads are what binds */
    }
    FOR(i, M) FOR(j, N) block[i][j] = _mm512_setzero_si512();
    FOR(place, 4) {
        __m512i weights[2];
        FOR(j, N) weights[j] = _mm512_permutexvar_epi16(_mm512_srli_epi16(packed[j], 4 * place), levels);
        FOR(i, M) {
            __m512i own = _mm512_loadu_si512(x + i * padded + WORDS * place);
            FOR(j, N) block[i][j] = _mm512_dpwssd_epi32(block[i][j], weights[j], own);
        }
    }
    FOR(j, N) {
        const float *own = absmax + j * bytes / (BLOCK / 2);
        __m512 largest = _mm512_mask_broadcastss_ps(_mm512_set1_ps(own[0]), 0xff00, _mm_load_ss(own + there - 1));
        FOR(i, M) sums[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(block[i][j]), largest, sums[i][j]);
    }
}

INLINE void nf4_tile(const int M, const int N, const Product *p, const Words *x, const uint8_t *w, const float *absmax,
                     float step, long row, long column) {
    __m512 sums[MOST][2];
    FOR(i, M) FOR(j, N) sums[i][j] = _mm512_setzero_ps();
    const int16_t *words = x->words + row * x->padded;
    const long bytes = p->k / 2, whole = p->k / REGISTER * REGISTER;
    w += column * bytes, absmax += column * (p->k / BLOCK);
    for (long at = 0; at < whole; at += REGISTER) {
        long early = ahead(N, at / 2, bytes);
        nf4_step(M, N, 2, words + at, x->padded, x->levels, w + at / 2, bytes, early, absmax + at / BLOCK, sums);
    }
    if (whole < p->k)
        nf4_step(M, N, 1, words + whole, x->padded, x->levels, w + whole / 2, bytes, 0, absmax + whole / BLOCK, sums);
    FOR(i, M) FOR(j, N) p->y[(row + i) * p->n + column + j] =
        (float)((double)_mm512_reduce_add_ps(sums[i][j]) * step * x->steps[row + i]);
}

/* k is a multiple of BLOCK. Returns 0, or 1 where there is no memory for the rows of x. */
int nf4_product(const Product *p, const uint8_t *w /* (n, k / 2) */, const float *absmax /* (n, k / BLOCK) */,
                const float *code /* (16) */) {
    long padded = up_to(p->k, REGISTER);
    int16_t *words = aligned_alloc(BYTES, p->m * padded * sizeof *words);
    float *floats = malloc((p->m + p->m * p->dim) * sizeof *floats);
    int failed = !words || !floats;
    if (!failed) {
        __m512 levels = _mm512_loadu_ps(code);
        float largest = _mm512_reduce_max_ps(_mm512_abs_ps(levels)), inverse = largest > 1e-30f ? CODES / largest : 0;
        __m256i whole = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(levels, _mm512_set1_ps(inverse))));
        Words x = {words, padded, floats, _mm512_broadcast_i64x4(whole)};
        for (long row = 0; row < p->m; row++) by_places(p, &x, row);
        float *narrow = floats + p->m;
        if (p->dim) narrow_products(p, narrow);
        IN_CHUNKS(p->k / 2, TILES(nf4_tile, p, &x, w, absmax, largest / CODES))
    }
    free(words);
    free(floats);
    return failed;
}
