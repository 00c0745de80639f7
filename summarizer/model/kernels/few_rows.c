/* y = x W^T + bias + scale (x A^T) B for a few rows of x, at the rate at which memory gives the stored W.
 *
 * Writing a token multiplies one row (a row for each beam, article and trial) with every weight of the model. Nothing is
 * used twice, so that the time is that of reading the weights, if no more is done to each of them than this:
 *
 * int8 weights are multiplied as they lie there. Each row of x becomes whole numbers of 16 bits on its own absmax grid,
 * and those two signed bytes (256 high + low): VNNI's vpdpbusd sums products of an unsigned byte (a weight + 128) and a
 * signed one (of x) into 32 bits. The sums are exact, whatever the order and the threads; what is lost is x beyond its
 * 16 bits.
 *
 * nf4 weights are looked up in a register of 16 levels, and multiplied in fp32.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || !defined(__AVX512VNNI__)
#error "made for processors that have AVX-512 with VNNI"
#endif

#define INLINE static inline __attribute__((always_inline))
#define BYTES 64   /* of a register */
#define FLOATS 16  /* of a register */
#define MOST 4     /* rows of x that share a pass over the weights */
#define BLOCK 64   /* nf4 weights that share an absmax */
#define LEVELS 32639 /* 127 * 256 + 127: the largest whole number of two signed bytes */
#define AHEAD 512  /* bytes that are asked for early: the best of 0 to 8,192 on two cores of an AMD EPYC 9004 */
#define CHUNK (192 << 10) /* bytes of weights that a thread takes at a time, in at most so many columns: */
#define COLUMNS 256
#define WORTH_THREADS (1 << 18) /* weights from which on waking another thread costs less than it saves */
#define WIDE 8 /* int8 rows of W that share a row of x longer than: */
#define LONG 8192 /* values of x that the nearest cache does not hold beside weights */

/* A loop that is written out: its bound is a constant, its indices name registers. */
#define FOR(i, count) _Pragma("GCC unroll 8") for (int i = 0; i < (count); i++)

/* All rows of x by the columns from `start` to `end`. One row of W after the other is how memory is read fastest; two at a
 * time where x is worth loading once for both. */
#define TILES(tile, ...)                                                                                          \
    for (long column = start; column < end; column += 2) {                                                        \
        int pair = column + 1 < end;                                                                              \
        long row = 0;                                                                                             \
        for (; row + 4 <= p->m; row += 4) TILE(tile, 4, pair, __VA_ARGS__)                                        \
        for (; row + 2 <= p->m; row += 2) TILE(tile, 2, pair, __VA_ARGS__)                                        \
        for (; row < p->m; row++) TILE(tile, 1, pair && p->k > LONG, __VA_ARGS__)                                 \
    }
#define TILE(tile, M, together, ...)                                                                              \
    {                                                                                                             \
        if (together) tile(M, 2, __VA_ARGS__, row, column);                                                       \
        else                                                                                                      \
            for (long c = column; c <= column + pair; c++) tile(M, 1, __VA_ARGS__, row, c);                       \
    }

/* All arrays are dense; shapes in the order of their axes. */
typedef struct {
    const float *x; /* (m, k) */
    long m, k, n;
    const float *bias; /* (n), or none */
    const float *a, *b, *scale; /* (trials, dim, k), (trials, dim, n), (trials); rows of x lie trial by trial */
    long trials, dim; /* 0 without adapters */
    float *y; /* (m, n) */
    int threads;
} Product;

INLINE __mmask16 first(long count) { return count >= FLOATS ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1); }

INLINE long columns_at_once(long bytes_of_one) {
    long columns = (CHUNK / bytes_of_one + WIDE) / WIDE * WIDE;
    return columns < COLUMNS ? columns : COLUMNS;
}

/* ---- the adapters: x A^T before the weights are read, its product with B as y is written ---- */

static void narrow_products(const Product *p, float *narrow /* (m, dim) */) {
    long rows_of_trial = p->trials ? p->m / p->trials : 1;
#pragma omp parallel for num_threads(p->threads) if (p->m * p->dim * p->k > 1 << 17)
    for (long at = 0; at < p->m * p->dim; at++) {
        long row = at / p->dim, d = at % p->dim, trial = row / rows_of_trial;
        const float *x = p->x + row * p->k, *a = p->a + (trial * p->dim + d) * p->k;
        __m512 sums = _mm512_setzero_ps();
        for (long i = 0; i < p->k; i += FLOATS) {
            __mmask16 there = first(p->k - i);
            sums = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(there, x + i), _mm512_maskz_loadu_ps(there, a + i), sums);
        }
        narrow[at] = _mm512_reduce_add_ps(sums) * p->scale[trial];
    }
}

/* What W's product left out, for columns from `start` to `end`. */
static void add_the_rest(const Product *p, const float *narrow, long start, long end) {
    long rows_of_trial = p->trials ? p->m / p->trials : 1;
    for (long row = 0; row < p->m; row++)
        for (long i = start; i < end; i += FLOATS) {
            __mmask16 there = first(end - i);
            float *y = p->y + row * p->n + i;
            __m512 sum = _mm512_maskz_loadu_ps(there, y);
            if (p->bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, p->bias + i));
            for (long d = 0; d < p->dim; d++) {
                const float *b = p->b + (row / rows_of_trial * p->dim + d) * p->n + i;
                __m512 weight = _mm512_set1_ps(narrow[row * p->dim + d]);
                sum = _mm512_fmadd_ps(weight, _mm512_maskz_loadu_ps(there, b), sum);
            }
            _mm512_mask_storeu_ps(y, there, sum);
        }
}

/* ---- int8 ---- */

typedef struct {
    int8_t *high, *low; /* (m, padded) */
    long padded;        /* k up to whole registers */
    float *steps;       /* (m); NaN for a row with a value that is not finite */
    int64_t *offsets;   /* (m): what 128 on every weight adds */
} Whole;

static void whole_numbers(const Product *p, Whole *w, long row) {
    const float *x = p->x + row * p->k;
    __m512 largest = _mm512_setzero_ps();
    __mmask16 broken = 0;
    for (long i = 0; i < p->k; i += FLOATS) {
        __m512 size = _mm512_abs_ps(_mm512_maskz_loadu_ps(first(p->k - i), x + i));
        broken |= _mm512_cmp_ps_mask(size, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
        largest = _mm512_max_ps(largest, size);
    }
    float absmax = _mm512_reduce_max_ps(largest), inverse = absmax > 1e-30f ? LEVELS / absmax : 0;
    __m512i sum = _mm512_setzero_si512(), sum_low = sum;
    for (long i = 0; i < w->padded; i += FLOATS) {
        __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(first(p->k - i), x + i), _mm512_set1_ps(inverse));
        __m512i q = _mm512_cvtps_epi32(scaled);
        __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
        __m512i low = _mm512_sub_epi32(q, _mm512_slli_epi32(high, 8));
        sum = _mm512_add_epi32(sum, high);
        sum_low = _mm512_add_epi32(sum_low, low);
        _mm_storeu_si128((__m128i *)(w->high + row * w->padded + i), _mm512_cvtepi32_epi8(high));
        _mm_storeu_si128((__m128i *)(w->low + row * w->padded + i), _mm512_cvtepi32_epi8(low));
    }
    w->offsets[row] = 128 * (256 * (int64_t)_mm512_reduce_add_epi32(sum) + _mm512_reduce_add_epi32(sum_low));
    w->steps[row] = broken ? NAN : absmax / LEVELS;
}

INLINE int64_t total(__m512i sums) {
    __m512i half = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums));
    return _mm512_reduce_add_epi64(
        _mm512_add_epi64(half, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sums, 1))));
}

/* The products of one register of each row. M and N are constants where this is inlined: sums stay in registers. */
INLINE void int8_step(const int M, const int N, const Product *p, const Whole *x, const int8_t *w, long row, long at,
                      __mmask64 there, __m512i high[MOST][WIDE], __m512i low[MOST][WIDE]) {
    __m512i weights[WIDE];
    FOR(j, N) {
        _mm_prefetch((const char *)w + j * p->k + at + AHEAD, _MM_HINT_T0);
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
    long padded = (p->k + BYTES - 1) / BYTES * BYTES;
    int8_t *bytes = aligned_alloc(BYTES, 2 * p->m * padded);
    float *floats = malloc((p->m + p->m * p->dim) * sizeof *floats);
    int64_t *offsets = malloc(p->m * sizeof *offsets);
    int failed = !bytes || !floats || !offsets;
    if (!failed) {
        Whole x = {bytes, bytes + p->m * padded, padded, floats, offsets};
        float *narrow = floats + p->m;
        for (long row = 0; row < p->m; row++) whole_numbers(p, &x, row);
        if (p->dim) narrow_products(p, narrow);
        long columns = columns_at_once(p->k), chunks = (p->n + columns - 1) / columns;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->threads) if (p->n * p->k > WORTH_THREADS)
        for (long chunk = 0; chunk < chunks; chunk++) {
            long start = chunk * columns, end = start + columns < p->n ? start + columns : p->n;
            if (p->m == 1 && p->k > LONG) int8_long_row(p, &x, w, scale, start, end);
            else TILES(int8_tile, p, &x, w, scale)
            add_the_rest(p, narrow, start, end);
        }
    }
    free(bytes);
    free(floats);
    free(offsets);
    return failed;
}

/* ---- nf4: a register holds 128 weights, two blocks; its 16 lanes hold 8 neighbours each, the first in the high half of
 * the lowest byte ---- */

/* x as the lanes ask for it: by register of weights, then by place in the lane, then by lane. Padded with zeros. */
static void by_lanes(const float *x, long k, long padded, float *out) {
    for (long at = 0; at < padded; at += 2 * BLOCK)
        for (int place = 0; place < 8; place++)
            for (int lane = 0; lane < FLOATS; lane++) {
                long from = at + 8 * lane + (place ^ 1);
                *out++ = from < k ? x[from] : 0;
            }
}

/* As `int8_step`; `blocks` is how many of the two blocks of a register there are. */
INLINE void nf4_step(const int M, const int N, const Product *p, const float *x, long padded, const uint8_t *w,
                     const float *absmax, __m512 levels, long row, long column, long at, int blocks,
                     __m512 sums[MOST][2]) {
    const __m512i halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    __m512 block[MOST][2];
    __m512i packed[2];
    FOR(j, N) {
        const uint8_t *own = w + ((column + j) * p->k + at) / 2;
        _mm_prefetch((const char *)own + AHEAD, _MM_HINT_T0);
        packed[j] = _mm512_maskz_loadu_epi32(blocks == 2 ? 0xffff : 0x00ff, own);
    }
    FOR(i, M) FOR(j, N) block[i][j] = _mm512_setzero_ps();
    FOR(place, 8) {
        __m512 weights[2];
        /* The lookup reads the lowest four bits of each lane alone. */
        FOR(j, N) weights[j] = _mm512_permutexvar_ps(_mm512_srli_epi32(packed[j], 4 * place), levels);
        FOR(i, M) {
            __m512 own = _mm512_loadu_ps(x + (row + i) * padded + at + FLOATS * place);
            FOR(j, N) block[i][j] = _mm512_fmadd_ps(weights[j], own, block[i][j]);
        }
    }
    FOR(j, N) {
        const float *own = absmax + ((column + j) * p->k + at) / BLOCK;
        __m512 largest = _mm512_permutexvar_ps(halves, _mm512_maskz_loadu_ps((1 << blocks) - 1, own));
        FOR(i, M) sums[i][j] = _mm512_fmadd_ps(block[i][j], largest, sums[i][j]);
    }
}

INLINE void nf4_tile(const int M, const int N, const Product *p, const float *x, long padded, const uint8_t *w,
                     const float *absmax, __m512 levels, long row, long column) {
    __m512 sums[MOST][2];
    FOR(i, M) FOR(j, N) sums[i][j] = _mm512_setzero_ps();
    long at = 0;
    for (; at + 2 * BLOCK <= p->k; at += 2 * BLOCK)
        nf4_step(M, N, p, x, padded, w, absmax, levels, row, column, at, 2, sums);
    if (at < p->k) nf4_step(M, N, p, x, padded, w, absmax, levels, row, column, at, 1, sums);
    FOR(i, M) FOR(j, N) p->y[(row + i) * p->n + column + j] = _mm512_reduce_add_ps(sums[i][j]);
}

/* k is a multiple of BLOCK. Returns 0, or 1 where there is no memory for the rows of x. */
int nf4_product(const Product *p, const uint8_t *w /* (n, k / 2) */, const float *absmax /* (n, k / BLOCK) */,
                const float *code /* (16) */) {
    long padded = (p->k + 2 * BLOCK - 1) / (2 * BLOCK) * (2 * BLOCK);
    float *floats = aligned_alloc(BYTES, (p->m * padded * sizeof *floats + BYTES - 1) / BYTES * BYTES);
    float *narrow = malloc((p->m * p->dim + 1) * sizeof *narrow);
    int failed = !floats || !narrow;
    if (!failed) {
        for (long row = 0; row < p->m; row++) by_lanes(p->x + row * p->k, p->k, padded, floats + row * padded);
        if (p->dim) narrow_products(p, narrow);
        const __m512 levels = _mm512_loadu_ps(code);
        long columns = columns_at_once(p->k / 2), chunks = (p->n + columns - 1) / columns;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->threads) if (p->n * p->k > WORTH_THREADS)
        for (long chunk = 0; chunk < chunks; chunk++) {
            long start = chunk * columns, end = start + columns < p->n ? start + columns : p->n;
            TILES(nf4_tile, p, floats, padded, w, absmax, levels)
            add_the_rest(p, narrow, start, end);
        }
    }
    free(floats);
    free(narrow);
    return failed;
}
