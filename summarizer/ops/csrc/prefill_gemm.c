/* y = x W^T + bias + scale (x A^T) B for many rows of x, as reading a prompt asks for it, with W row-wise int8 or nf4.
 *
 * Each row of x becomes whole numbers on its own grid: of 8 bits for most columns, of 16 for those that are `apart`. These
 * are two signed bytes (256 high + low), so that all columns have a low one and only those apart a high one, which is
 * multiplied for itself. VNNI's vpdpbusd sums products of an unsigned byte (a weight + 128) and a signed one (of x) into 32
 * bits: sums are exact, whatever the order and the threads. What 128 on every weight adds is where the sums begin.
 *
 * A tile is ROWS rows of x by COLUMNS rows of W, whose sums stay in registers. x and W are laid so that a tile reads both
 * from front to end: x by four neighboring columns of ROWS rows, once for all; W by four of COLUMNS rows, a chunk that the
 * second cache holds at a time. There nf4 weights are rounded to a grid of int8 for each row: in the block of its largest
 * weight nf4's levels lie ten steps apart or more.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "either_precision.h"

#ifndef __AVX512VNNI__
#error "made for processors that have AVX-512 with VNNI"
#endif

#define ROWS 12 /* of x in a tile */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define PANELS 2 /* registers of columns in a tile */
#define COLUMNS (PANELS * FLOATS)
#define CHUNK (256 << 10) /* bytes of laid weights at a time; 128 to 512 KiB are alike */
#define BLOCK 64 /* nf4 weights that share an absmax: a register of them in 8 bits */
#define LEVELS 127
#define WIDE_LEVELS 32639 /* 127 * 256 + 127: the largest whole number of two signed bytes */

/* All arrays are dense; shapes in the order of their axes. */
typedef struct {
    const void *x; /* (m, k) */
    long m, k, n;
    const void *w;      /* int8: (n, k); nf4: (n, k / 2), two to a byte, the first in its high half */
    const float *scale; /* int8: (n) */
    const float *absmax, *code; /* nf4: (n, k / BLOCK) and its 16 levels, k a multiple of BLOCK; else none */
    const float *bias;  /* (n), or none */
    const float *a, *b, *pair_scale; /* (trials, dim, k), (trials, dim, n), (trials); rows of x lie trial by trial */
    long trials, dim;                /* 0 without adapters */
    long aparts;                     /* so many columns of x, its largest, have 16 bits; 0: all have */
    void *y;     /* (m, n) */
    int in_bf16; /* x and y; else in fp32 */
    int threads;
} Product;

/* x in whole numbers; columns up to a multiple of BYTES, rows up to one of ROWS, zeros behind the end. */
typedef struct {
    long columns, apart_columns;
    int8_t *low, *high;  /* (rows / ROWS, columns / 4, ROWS, 4) */
    int32_t *low_begin, *high_begin; /* (rows): -128 times the row's sum */
    float *steps;        /* (rows); NaN for a row with a value that is not finite */
    float *narrow;       /* (rows, dim): scale (x A^T) */
    int64_t *apart;      /* (aparts), ascending */
    float *keep;         /* (k): 0 for columns that are apart, else 1 */
    float *scale, *inverse; /* (n): of nf4, a step of each row of W, and how many of them are 1; 0 for zeros */
} Whole;

/* The largest absolute value of each column of x (m, k); the threads of a parallel region share it. */
static void column_absmax(const void *x, long m, long k, int in_bf16, float *absmax /* (k) */) {
    const long wide = 16 * FLOATS;
#pragma omp for schedule(static)
    for (long start = 0; start < k; start += wide) {
        long end = start + wide < k ? start + wide : k;
        for (long i = start; i < end; i++) absmax[i] = 0;
        for (long row = 0; row < m; row++)
            for (long i = start; i < end; i += FLOATS) {
                __mmask16 there = first(end - i);
                __m512 size = _mm512_abs_ps(load(x, row * k + i, there, in_bf16));
                __m512 before = _mm512_maskz_loadu_ps(there, absmax + i);
                _mm512_mask_storeu_ps(absmax + i, there, _mm512_max_ps(before, size));
            }
    }
}

static long at_least(const int32_t *bits, long count, int32_t threshold) {
    long found = 0;
    for (long i = 0; i < count; i += FLOATS) {
        __m512i own = _mm512_maskz_loadu_epi32(first(count - i), bits + i);
        found += __builtin_popcount(_mm512_mask_cmpge_epi32_mask(first(count - i), own, _mm512_set1_epi32(threshold)));
    }
    return found;
}

/* The `count` columns with the largest absolute values, ascending; of equal ones the first. Positive floats have the order
 * of their bits, so that the least one of them is found bit by bit. */
static void largest_of(const float *absmax /* (k) */, long k, long count, int64_t *columns /* (count) */) {
    const int32_t *bits = (const int32_t *)absmax;
    int32_t least = 0;
    for (int32_t bit = 1 << 30; bit; bit >>= 1)
        if (at_least(bits, k, least | bit) >= count) least |= bit;
    long of_least = count - (least == INT32_MAX ? 0 : at_least(bits, k, least + 1));
    for (long i = 0, found = 0; found < count; i++) {
        if (bits[i] < least || (bits[i] == least && !of_least)) continue;
        of_least -= bits[i] == least;
        columns[found++] = i;
    }
}

/* Those of x (m, k). */
void largest_columns(const void *x, long m, long k, int in_bf16, long count, float *absmax /* (k) */,
                     int64_t *columns /* (count) */, int threads) {
#pragma omp parallel num_threads(threads)
    column_absmax(x, m, k, in_bf16, absmax);
    largest_of(absmax, k, count, columns);
}

/* ---- x before the product ---- */

/* Which columns are apart; the threads of a parallel region share it. */
static void choose_apart(const Product *p, Whole *x) {
    if (p->aparts) column_absmax(p->x, p->m, p->k, p->in_bf16, x->keep);
#pragma omp single
    {
        if (p->aparts) largest_of(x->keep, p->k, p->aparts, x->apart);
        for (long i = 0; i < p->k; i++) x->keep[i] = p->aparts != 0;
        for (long i = 0; i < p->aparts; i++) x->keep[x->apart[i]] = 0;
    }
}

INLINE void put_fours(int8_t *laid, long row, long columns, long column, __m128i sixteen) {
    int32_t *to = (int32_t *)laid + (row / ROWS * (columns / 4) + column / 4) * ROWS + row % ROWS;
    to[0] = _mm_cvtsi128_si32(sixteen);
    to[ROWS] = _mm_extract_epi32(sixteen, 1);
    to[2 * ROWS] = _mm_extract_epi32(sixteen, 2);
    to[3 * ROWS] = _mm_extract_epi32(sixteen, 3);
}

INLINE int32_t total(__m128i fours) {
    __m128i pairs = _mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
}

static int32_t high_bytes_apart(const Product *p, const Whole *x, long row, float inverse) {
    int32_t sum = 0;
    int8_t *to = x->high + row / ROWS * ROWS * x->apart_columns + row % ROWS * 4;
    for (long i = 0; i < p->aparts; i++) {
        long at = row * p->k + x->apart[i];
        __m128 value = _mm512_castps512_ps128(load(p->x, at, 1, p->in_bf16));
        int32_t high = (_mm_cvtss_si32(_mm_mul_ss(value, _mm_set_ss(inverse))) + 128) >> 8;
        to[i / 4 * 4 * ROWS + i % 4] = (int8_t)high;
        sum += high;
    }
    return sum;
}

static void whole_numbers(const Product *p, Whole *x, long row) {
    __m512 largest = _mm512_setzero_ps(), of_all = largest;
    __mmask16 broken = 0;
    for (long i = 0; i < p->k; i += FLOATS) {
        __mmask16 there = first(p->k - i);
        __m512 size = _mm512_abs_ps(load(p->x, row * p->k + i, there, p->in_bf16));
        broken |= _mm512_cmp_ps_mask(size, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
        largest = _mm512_max_ps(largest, _mm512_mul_ps(size, _mm512_maskz_loadu_ps(there, x->keep + i)));
        of_all = _mm512_max_ps(of_all, size);
    }
    /* What is apart takes the others' step, if its 16 bits of that are enough. */
    float step = _mm512_reduce_max_ps(largest) / LEVELS, step_apart = _mm512_reduce_max_ps(of_all) / WIDE_LEVELS;
    if (step < step_apart) step = step_apart;
    float inverse = step > 1e-30f && !broken ? 1 / step : 0;
    const __m128i ones = _mm_set1_epi8(1);
    __m128i sum = _mm_setzero_si128(), sum_high = sum;
    for (long i = 0; i < x->columns; i += FLOATS) {
        __m512 scaled = _mm512_mul_ps(load(p->x, row * p->k + i, first(p->k - i), p->in_bf16), _mm512_set1_ps(inverse));
        __m512i q = _mm512_cvtps_epi32(scaled);
        __m128i low = _mm512_cvtepi32_epi8(q); /* the last byte, with its sign */
        sum = _mm_dpbusd_epi32(sum, ones, low);
        put_fours(x->low, row, x->columns, i, low);
        if (p->aparts) continue;
        __m128i high = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8));
        sum_high = _mm_dpbusd_epi32(sum_high, ones, high);
        put_fours(x->high, row, x->columns, i, high);
    }
    int32_t high = p->aparts ? high_bytes_apart(p, x, row, inverse) : total(sum_high);
    x->low_begin[row] = (int32_t)(-128u * (uint32_t)total(sum)); /* may wrap around, as sums do */
    x->high_begin[row] = (int32_t)(-128u * (uint32_t)high);
    x->steps[row] = broken ? NAN : step;
}

static void narrow_products(const Product *p, const Whole *x, long row) {
    long trial = p->trials ? row / (p->m / p->trials) : 0;
    for (long d = 0; d < p->dim; d++) {
        const float *a = p->a + (trial * p->dim + d) * p->k;
        __m512 sums = _mm512_setzero_ps();
        for (long i = 0; i < p->k; i += FLOATS) {
            __mmask16 there = first(p->k - i);
            __m512 own = load(p->x, row * p->k + i, there, p->in_bf16);
            sums = _mm512_fmadd_ps(own, _mm512_maskz_loadu_ps(there, a + i), sums);
        }
        x->narrow[row * p->dim + d] = _mm512_reduce_add_ps(sums) * p->pair_scale[trial];
    }
}

/* ---- W as tiles read it ---- */

/* The grid of a row of W in nf4. */
static void row_steps(const Product *p, Whole *x, long row) {
    __m512 largest = _mm512_setzero_ps();
    const float *absmax = p->absmax + row * (p->k / BLOCK);
    for (long i = 0; i < p->k / BLOCK; i += FLOATS)
        largest = _mm512_max_ps(largest, _mm512_maskz_loadu_ps(first(p->k / BLOCK - i), absmax + i));
    float of_code = _mm512_reduce_max_ps(_mm512_abs_ps(_mm512_loadu_ps(p->code)));
    x->scale[row] = _mm512_reduce_max_ps(largest) * of_code / LEVELS;
    x->inverse[row] = x->scale[row] > 1e-30f ? 1 / x->scale[row] : 0;
}

/* BYTES weights of a row of W from column `at` on as signed bytes, zeros behind its end. */
INLINE __m512i signed_bytes(const int in_nf4, const Product *p, const Whole *x, long row, long at) {
    if (!in_nf4) {
        long left = p->k - at;
        return _mm512_maskz_loadu_epi8(left >= BYTES ? ~0ull : (1ull << left) - 1, (const int8_t *)p->w + row * p->k + at);
    }
    float steps = p->absmax[row * (p->k / BLOCK) + at / BLOCK] * x->inverse[row];
    __m512 levels = _mm512_mul_ps(_mm512_loadu_ps(p->code), _mm512_set1_ps(steps));
    __m512i table = _mm512_broadcast_i32x4(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(levels)));
    __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)((const uint8_t *)p->w + (row * p->k + at) / 2)));
    __m512i second = _mm512_and_si512(_mm512_slli_epi16(pairs, 8), _mm512_set1_epi16(0x0f00));
    return _mm512_shuffle_epi8(table, _mm512_or_si512(_mm512_srli_epi16(pairs, 4), second));
}

/* COLUMNS rows of W from `column` on: (columns / 4, COLUMNS, 4), each + 128. The rows after these, which lie behind them,
 * are asked for meanwhile. */
INLINE void lay(const int in_nf4, const Product *p, const Whole *x, long column, uint8_t *laid) {
    const long bytes = in_nf4 ? p->k / 2 : p->k;
    const char *next = (const char *)p->w + (column + COLUMNS) * bytes, *end = (const char *)p->w + p->n * bytes;
    for (long at = 0; at < x->columns; at += BYTES)
        FOR(panel, PANELS) {
            FOR(i, FLOATS) if ((!in_nf4 || i % 2) && next < end) {
                _mm_prefetch(next, _MM_HINT_T1);
                next += BYTES;
            }
            __m512i rows[FLOATS];
            FOR(i, FLOATS) {
                long row = column + panel * FLOATS + i;
                rows[i] = row < p->n ? signed_bytes(in_nf4, p, x, row, at) : _mm512_setzero_si512();
                rows[i] = _mm512_xor_si512(rows[i], _mm512_set1_epi8((char)0x80));
            }
            transpose(rows);
            FOR(i, FLOATS) _mm512_store_si512(laid + ((at / 4 + i) * PANELS + panel) * BYTES, rows[i]);
        }
}

static void lay_weights(const Product *p, const Whole *x, long column, uint8_t *laid) {
    if (p->absmax)
        lay(1, p, x, column, laid);
    else
        lay(0, p, x, column, laid);
}

/* Those of the columns apart once more, side by side. */
static void lay_apart(const Product *p, const Whole *x, const uint8_t *laid, uint8_t *apart) {
    for (long i = 0; i < p->aparts; i++) {
        const uint8_t *from = laid + x->apart[i] / 4 * 4 * COLUMNS + x->apart[i] % 4;
        uint8_t *to = apart + i / 4 * 4 * COLUMNS + i % 4;
        for (long j = 0; j < 4 * COLUMNS; j += 4) to[j] = from[j];
    }
}

/* ---- the product ---- */

/* _mm512_dpbusd_epi32, of whose sums gcc 12 keeps half in memory: 220 GMAC/s on two cores instead of 410. */
#define ADD_PRODUCTS(sums, weights, x) __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(x))

INLINE void put(float *y, __m512i sums, float weight, int add) {
    __m512 before = add ? _mm512_loadu_ps(y) : _mm512_setzero_ps();
    _mm512_storeu_ps(y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(weight), before));
}

#define BEGIN(i) __m512i a##i = _mm512_set1_epi32(begin[i]), b##i = a##i;
#define STEP(i)                                                                                                   \
    {                                                                                                             \
        __m512i four = _mm512_set1_epi32(((const int32_t *)x)[i]);                                                \
        ADD_PRODUCTS(a##i, a, four);                                                                              \
        ADD_PRODUCTS(b##i, b, four);                                                                              \
    }
#define PUT(i) put(y + i * COLUMNS, a##i, weight, add); put(y + i * COLUMNS + FLOATS, b##i, weight, add);
#define RAISE(i)                                                                                                  \
    {                                                                                                             \
        __m512i low = _mm512_set1_epi32(begin[i]);                                                                \
        a##i = _mm512_add_epi32(_mm512_slli_epi32(a##i, 8), low);                                                 \
        b##i = _mm512_add_epi32(_mm512_slli_epi32(b##i, 8), low);                                                 \
    }

/* The sums of one tile, in fp32 and times `weight`, added to `y` or in its place. */
INLINE void multiply(const int8_t *x, const uint8_t *w, long columns, const int32_t *begin, float weight, int add,
                     float *y /* (ROWS, COLUMNS) */) {
    EACH_ROW(BEGIN)
    for (long at = 0; at < columns; at += 4, x += 4 * ROWS, w += PANELS * BYTES) {
        __m512i a = _mm512_load_si512(w), b = _mm512_load_si512(w + BYTES);
        EACH_ROW(STEP)
    }
    EACH_ROW(PUT)
}

/* 256 times the high bytes' sums and those of the low ones, together in 32 bits. */
INLINE void multiply_both(const int8_t *x, const uint8_t *w, long columns, const int32_t *begin, const int8_t *x_high,
                          const uint8_t *w_high, long columns_high, const int32_t *begin_high, float *y) {
    const float weight = 1;
    const int add = 0;
    const int32_t *begin_low = begin;
    const int8_t *x_low = x;
    const uint8_t *w_low = w;
    begin = begin_high, x = x_high, w = w_high;
    EACH_ROW(BEGIN)
    for (long at = 0; at < columns_high; at += 4, x += 4 * ROWS, w += PANELS * BYTES) {
        __m512i a = _mm512_load_si512(w), b = _mm512_load_si512(w + BYTES);
        EACH_ROW(STEP)
    }
    begin = begin_low, x = x_low, w = w_low;
    EACH_ROW(RAISE)
    for (long at = 0; at < columns; at += 4, x += 4 * ROWS, w += PANELS * BYTES) {
        __m512i a = _mm512_load_si512(w), b = _mm512_load_si512(w + BYTES);
        EACH_ROW(STEP)
    }
    EACH_ROW(PUT)
}

/* Whether 256 times the sums of the high bytes and those of the low ones hold in 32 bits. */
static int sums_hold(const Product *p) { return p->aparts && 127l * 128 * (256 * p->aparts + p->k) < INT32_MAX; }

static void tile(const Product *p, const Whole *x, const uint8_t *w, const uint8_t *w_apart, long row, long column) {
    float sums[ROWS * COLUMNS];
    const int8_t *low = x->low + row * x->columns, *high = x->high + row * x->apart_columns;
    if (sums_hold(p)) {
        multiply_both(low, w, x->columns, x->low_begin + row, high, w_apart, x->apart_columns, x->high_begin + row, sums);
    } else {
        multiply(high, w_apart, x->apart_columns, x->high_begin + row, 256, 0, sums);
        multiply(low, w, x->columns, x->low_begin + row, 1, 1, sums);
    }
    long rows = p->m - row < ROWS ? p->m - row : ROWS, rows_of_trial = p->trials ? p->m / p->trials : p->m;
    long trial = row / rows_of_trial, end_of_trial = (trial + 1) * rows_of_trial - row;
    for (long i = 0; i < rows; i++) {
        if (i == end_of_trial) trial++, end_of_trial += rows_of_trial;
        FOR(j, PANELS) {
            long at = column + j * FLOATS;
            __mmask16 there = first(p->n - at);
            __m512 scale = _mm512_maskz_loadu_ps(there, x->scale + at);
            __m512 y = _mm512_loadu_ps(sums + i * COLUMNS + j * FLOATS);
            y = _mm512_mul_ps(_mm512_mul_ps(y, _mm512_set1_ps(x->steps[row + i])), scale);
            if (p->bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(there, p->bias + at));
            for (long d = 0; d < p->dim; d++) {
                const float *b = p->b + (trial * p->dim + d) * p->n + at;
                __m512 weight = _mm512_set1_ps(x->narrow[(row + i) * p->dim + d]);
                y = _mm512_fmadd_ps(weight, _mm512_maskz_loadu_ps(there, b), y);
            }
            store(p->y, (row + i) * p->n + at, there, y, p->in_bf16);
        }
    }
}

static int takes_memory(const Product *p, Whole *x, uint8_t **laid, long bytes_of_chunk) {
    long rows = up_to(p->m, ROWS), whole_rows = p->m / ROWS * ROWS;
    long low = rows * x->columns, high = up_to(rows * x->apart_columns, BYTES);
    x->low = aligned_alloc(BYTES, low + high + up_to(rows * (2 * sizeof *x->low_begin + sizeof *x->steps), BYTES));
    x->narrow = malloc((rows * p->dim + p->k + (p->absmax ? 2 * p->n : 0)) * sizeof *x->narrow);
    x->apart = malloc((p->aparts + 1) * sizeof *x->apart);
    *laid = aligned_alloc(BYTES, p->threads * bytes_of_chunk);
    if (!x->low || !x->narrow || !x->apart || !*laid) return 0;
    x->high = x->low + low;
    x->low_begin = (int32_t *)(x->high + high);
    x->high_begin = x->low_begin + rows;
    x->steps = (float *)(x->high_begin + rows);
    x->keep = x->narrow + rows * p->dim;
    x->scale = p->absmax ? x->keep + p->k : (float *)p->scale;
    x->inverse = x->scale + p->n;
    memset(x->low + whole_rows * x->columns, 0, (rows - whole_rows) * x->columns);
    memset(x->high, 0, rows * x->apart_columns);
    memset(x->low_begin, 0, 2 * rows * sizeof *x->low_begin);
    return 1;
}

/* Columns from `start` to `end`, in tiles, with W laid in `laid`. */
static void chunk_of_columns(const Product *p, const Whole *x, long start, long end, uint8_t *laid) {
    long bytes = COLUMNS * x->columns, bytes_apart = p->aparts ? COLUMNS * x->apart_columns : 0;
    uint8_t *to = laid;
    for (long column = start; column < end; column += COLUMNS, to += bytes + bytes_apart) {
        lay_weights(p, x, column, to);
        if (p->aparts) lay_apart(p, x, to, to + bytes);
    }
    for (long row = 0; row < p->m; row += ROWS) {
        const uint8_t *w = laid;
        for (long column = start; column < end; column += COLUMNS, w += bytes + bytes_apart)
            tile(p, x, w, p->aparts ? w + bytes : w, row, column);
    }
}

/* k is at most 2^17, so that sums hold. Returns 0, or 1 where there is no memory for x and parts of W. */
int prefill_gemm(const Product *p) {
    Whole x = {.columns = up_to(p->k, BYTES)};
    x.apart_columns = p->aparts ? up_to(p->aparts, 4) : x.columns;
    long of_tile = COLUMNS * (x.columns + (p->aparts ? x.apart_columns : 0));
    long all = up_to(p->n, COLUMNS) / COLUMNS, tiles = CHUNK / of_tile > 1 ? CHUNK / of_tile : 1;
    /* As many chunks for each thread, of one tile more or less. */
    long chunks = up_to((all + tiles - 1) / tiles, p->threads);
    if (chunks > all) chunks = all;
    tiles = (all + chunks - 1) / chunks;
    uint8_t *laid = NULL;
    int there = takes_memory(p, &x, &laid, tiles * of_tile);
    if (there) {
#pragma omp parallel num_threads(p->threads)
        {
            choose_apart(p, &x);
#pragma omp for schedule(static)
            for (long row = 0; row < p->m; row++) {
                whole_numbers(p, &x, row);
                narrow_products(p, &x, row);
            }
#pragma omp for schedule(static)
            for (long row = 0; row < (p->absmax ? p->n : 0); row++) row_steps(p, &x, row);
#pragma omp for schedule(dynamic, 1)
            for (long chunk = 0; chunk < chunks; chunk++) {
                long start = chunk * all / chunks * COLUMNS, end = (chunk + 1) * all / chunks * COLUMNS;
                uint8_t *own = laid + omp_get_thread_num() * tiles * of_tile;
                chunk_of_columns(p, &x, start, end < p->n ? end : p->n, own);
            }
        }
    }
    free(x.low);
    free(x.narrow);
    free(x.apart);
    free(laid);
    return !there;
}
