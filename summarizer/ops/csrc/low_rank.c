/* The narrow products of low-rank pairs beside a layer in training, for numbers in bf16 or fp32. Each reads its wide tensor
 * once; a library's products, made for wide ones, take several times as long. Sums are in fp32, each row's or column's in an
 * order of its own, whatever the threads and the other trials.
 *
 * Beside numbers in bf16 a pair of few dims is multiplied in its own fp32, since reading is what costs there; one of more
 * dims is rounded to bf16, as the narrow numbers are, and multiplied two products at a time.
 */
#include <stdint.h>

#include "either_precision.h"

#ifndef __AVX512BF16__
#error "made for processors that know bf16"
#endif

#define ROWS 4     /* of a wide tensor at a time */
#define DIMS 4     /* of a pair at a time */
#define PANELS 4   /* registers of columns at a time */
#define CHUNK 64   /* rows that a thread takes at a time: trials of more dims take longer */
#define HALVES 32  /* numbers of bf16 in a register */
#define FEW 4      /* dims of a pair that stays in fp32 */
#define MOST 16    /* dims of a pair in bf16 */
#define SUMMED 8   /* dims that are summed over rows at a time */

/* All arrays are dense: trials lie behind each other, each with as many rows and with dims of its own, 0 for one that is
 * left alone. */
typedef struct {
    void *x;     /* (trials, rows, d), in bf16 or fp32 */
    float *own;  /* of each trial (rows, its dims) */
    float *pair; /* (trials, pair_rows, d), of each trial's the first dims */
    const float *scale;       /* (trials) */
    const long *dims, *start; /* (trials): dims, and those of the trials before */
    uint32_t *rounded;        /* where a pair, or narrow rows, are kept in bf16: for all dims a half of d, or of the rows */
    long trials, rows, d, pair_rows;
    int in_bf16, threads;
} LowRank;

/* Call a function of constants: how many rows or dims are left decides which. */
#define FULL_OR_LESS(DO, count) \
    switch (count) {            \
    case 1: DO(1); break;       \
    case 2: DO(2); break;       \
    case 3: DO(3); break;       \
    default: DO(4);             \
    }

/* Rows of all trials, `CHUNK` at a time within their trial. */
#define FOR_CHUNKS(p)                                                            \
    _Pragma("omp for collapse(2) schedule(dynamic, 1)")                          \
    for (long trial = 0; trial < (p)->trials; trial++)                           \
        for (long chunk = 0; chunk < (p)->rows; chunk += CHUNK)

#define FOR_ROWS(p)                                                              \
    for (long row = chunk, end = least(chunk + CHUNK, (p)->rows); row < end; row += ROWS)

#define EACH_THREAD(p) _Pragma("omp parallel num_threads(p->threads)")

INLINE long least(long one, long other) { return one < other ? one : other; }
INLINE __mmask32 first_halves(long count) {
    return count >= HALVES ? 0xffffffffu : count <= 0 ? 0 : (__mmask32)((1u << count) - 1);
}
INLINE int rounds(const LowRank *p, long trial) { return p->in_bf16 && p->dims[trial] > FEW; }

/* Where a trial's narrow row begins. */
INLINE float *own_row(const LowRank *p, long trial, long row) {
    return p->own + p->start[trial] * p->rows + row * p->dims[trial];
}

INLINE __m512bh halves(const void *x, long at, __mmask32 there) {
    return (__m512bh)_mm512_maskz_loadu_epi16(there, (const uint16_t *)x + at);
}

/* Low numbers in the lower half of each word, high ones in the upper. */
INLINE __m512bh interleaved(__m512 low, __m512 high) {
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    const __m512i places = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                            20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (__m512bh)_mm512_permutexvar_epi16(places, both);
}

/* A word in all places. */
INLINE __m512bh everywhere(uint32_t word) { return (__m512bh)_mm512_set1_epi32((int)word); }

/* ---- own = scale x pair^T ---- */

INLINE __m512 half_sums(__m512 one, __m512 other) {
    return _mm512_add_ps(_mm512_unpacklo_ps(one, other), _mm512_unpackhi_ps(one, other));
}

/* The sum of each register's numbers, of row i and dim j in place 4 i + j. */
INLINE __m512 total(__m512 sums[ROWS][DIMS]) {
    __m512 rows[ROWS];
    FOR(i, ROWS) {
        __m512d one = _mm512_castps_pd(half_sums(sums[i][0], sums[i][1]));
        __m512d other = _mm512_castps_pd(half_sums(sums[i][2], sums[i][3]));
        rows[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(rows[0], rows[1], 0x44), _mm512_shuffle_f32x4(rows[0], rows[1], 0xee));
    __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(rows[2], rows[3], 0x44), _mm512_shuffle_f32x4(rows[2], rows[3], 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

INLINE void narrow_tile(const LowRank *p, long trial, long row, long dim, int rows, int dims, int in_bf16, int rounded) {
    const float *pair = p->pair + (trial * p->pair_rows + dim) * p->d;
    const uint16_t *pair_halves = (const uint16_t *)p->rounded + (p->start[trial] + dim) * p->d;
    long at = (trial * p->rows + row) * p->d;
    __m512 sums[ROWS][DIMS];
    FOR(i, ROWS) FOR(j, DIMS) sums[i][j] = _mm512_setzero_ps();
    if (rounded) {
        for (long column = 0; column < p->d; column += HALVES) {
            __mmask32 there = first_halves(p->d - column);
            __m512bh pairs[DIMS];
            FOR(j, dims) pairs[j] = halves(pair_halves, j * p->d + column, there);
            FOR(i, rows) {
                __m512bh x = halves(p->x, at + i * p->d + column, there);
                FOR(j, dims) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], x, pairs[j]);
            }
        }
    } else {
        for (long column = 0; column < p->d; column += FLOATS) {
            __mmask16 there = first(p->d - column);
            __m512 pairs[DIMS];
            FOR(j, dims) pairs[j] = _mm512_maskz_loadu_ps(there, pair + j * p->d + column);
            FOR(i, rows) {
                __m512 x = load(p->x, at + i * p->d + column, there, in_bf16);
                FOR(j, dims) sums[i][j] = _mm512_fmadd_ps(x, pairs[j], sums[i][j]);
            }
        }
    }
    float own[FLOATS];
    _mm512_storeu_ps(own, _mm512_mul_ps(_mm512_set1_ps(p->scale[trial]), total(sums)));
    FOR(i, rows) FOR(j, dims) own_row(p, trial, row + i)[dim + j] = own[DIMS * i + j];
}

INLINE void narrow_rows(const LowRank *p, long trial, long row, int rows, int in_bf16, int rounded) {
    for (long dim = 0; dim < p->dims[trial]; dim += DIMS) {
#define TILE(dims) narrow_tile(p, trial, row, dim, rows, dims, in_bf16, rounded)
        FULL_OR_LESS(TILE, p->dims[trial] - dim)
#undef TILE
    }
}

/* The pairs that are rounded, in bf16: trials behind each other as in `own`, each (its dims, d). */
INLINE void round_pairs(const LowRank *p) {
#pragma omp for collapse(2) schedule(static)
    for (long trial = 0; trial < p->trials; trial++)
        for (long dim = 0; dim < MOST; dim++) {
            if (!rounds(p, trial) || dim >= p->dims[trial]) continue;
            const float *from = p->pair + (trial * p->pair_rows + dim) * p->d;
            for (long column = 0; column < p->d; column += FLOATS) {
                __mmask16 there = first(p->d - column);
                store(p->rounded, (p->start[trial] + dim) * p->d + column, there, _mm512_maskz_loadu_ps(there, from + column), 1);
            }
        }
}

void narrow(const LowRank *p) {
    EACH_THREAD(p) {
        round_pairs(p);
        FOR_CHUNKS(p) FOR_ROWS(p) {
#define ROWS_OF(rows)                                                       \
    rounds(p, trial) ? narrow_rows(p, trial, row, rows, 1, 1)               \
    : p->in_bf16     ? narrow_rows(p, trial, row, rows, 1, 0)               \
                     : narrow_rows(p, trial, row, rows, 0, 0)
            FULL_OR_LESS(ROWS_OF, end - row)
#undef ROWS_OF
        }
    }
}

/* ---- x += own pair ---- */

INLINE void add_rows(const LowRank *p, long trial, long row, int rows, int in_bf16) {
    const float *pair = p->pair + trial * p->pair_rows * p->d, *own = own_row(p, trial, row);
    long r = p->dims[trial], at = (trial * p->rows + row) * p->d;
    for (long column = 0; column < p->d; column += FLOATS) {
        __mmask16 there = first(p->d - column);
        __m512 sums[ROWS];
        FOR(i, rows) sums[i] = load(p->x, at + i * p->d + column, there, in_bf16);
        for (long j = 0; j < r; j++) {
            __m512 pairs = _mm512_maskz_loadu_ps(there, pair + j * p->d + column);
            FOR(i, rows) sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(own[i * r + j]), pairs, sums[i]);
        }
        FOR(i, rows) store(p->x, at + i * p->d + column, there, sums[i], in_bf16);
    }
}

/* The rows of a chunk, two dims at a time; twos: how many, a constant. */
INLINE void add_rounded(const LowRank *p, long trial, long chunk, int twos) {
    const float *pair = p->pair + trial * p->pair_rows * p->d;
    long r = p->dims[trial], rows = least(CHUNK, p->rows - chunk);
    uint32_t own[CHUNK][MOST / 2];
    for (long i = 0; i < rows; i++)
        _mm256_storeu_si256((__m256i *)own[i], (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first(r), own_row(p, trial, chunk + i))));
    for (long column = 0; column < p->d; column += 2 * FLOATS) {
        __mmask16 there[2];
        __m512bh pairs[2][MOST / 2];
        FOR(k, 2) {
            there[k] = first(p->d - column - k * FLOATS);
            FOR(j, twos) {
                const float *from = pair + 2 * j * p->d + column + k * FLOATS;
                __m512 low = _mm512_maskz_loadu_ps(there[k], from);
                __m512 high = 2 * j + 1 < r ? _mm512_maskz_loadu_ps(there[k], from + p->d) : _mm512_setzero_ps();
                pairs[k][j] = interleaved(low, high);
            }
        }
        for (long i = 0; i < rows; i++) {
            long at = (trial * p->rows + chunk + i) * p->d + column;
            __m512 sums[2];
            FOR(k, 2) sums[k] = load(p->x, at + k * FLOATS, there[k], 1);
            FOR(j, twos) FOR(k, 2) sums[k] = _mm512_dpbf16_ps(sums[k], everywhere(own[i][j]), pairs[k][j]);
            FOR(k, 2) store(p->x, at + k * FLOATS, there[k], sums[k], 1);
        }
    }
}

void add_widened(const LowRank *p) {
    EACH_THREAD(p) FOR_CHUNKS(p) {
        if (rounds(p, trial)) {
            long r = p->dims[trial];
            r <= 8 ? add_rounded(p, trial, chunk, 4) : r <= 12 ? add_rounded(p, trial, chunk, 6) : add_rounded(p, trial, chunk, 8);
        } else if (p->dims[trial]) {
            FOR_ROWS(p) {
#define ROWS_OF(rows) p->in_bf16 ? add_rows(p, trial, row, rows, 1) : add_rows(p, trial, row, rows, 0)
                FULL_OR_LESS(ROWS_OF, end - row)
#undef ROWS_OF
            }
        }
    }
}

/* ---- pair = own^T x ---- */

INLINE void sum_tile(const LowRank *p, long trial, long column, long dim, int dims, int in_bf16) {
    __m512 sums[PANELS][DIMS];
    __mmask16 there[PANELS];
    FOR(k, PANELS) there[k] = first(p->d - column - k * FLOATS);
    FOR(k, PANELS) FOR(j, dims) sums[k][j] = _mm512_setzero_ps();
    for (long row = 0; row < p->rows; row++) {
        const float *own = own_row(p, trial, row) + dim;
        long at = (trial * p->rows + row) * p->d + column;
        FOR(k, PANELS) {
            __m512 x = load(p->x, at + k * FLOATS, there[k], in_bf16);
            FOR(j, dims) sums[k][j] = _mm512_fmadd_ps(_mm512_set1_ps(own[j]), x, sums[k][j]);
        }
    }
    float *to = p->pair + (trial * p->pair_rows + dim) * p->d + column;
    FOR(k, PANELS) FOR(j, dims) _mm512_mask_storeu_ps(to + j * p->d + k * FLOATS, there[k], sums[k][j]);
}

/* Where two narrow rows lie in words of a number of each: of a trial (half its rows, MOST), zeros behind its dims. */
INLINE uint32_t *two_rows(const LowRank *p, long trial, long two) {
    return p->rounded + (trial * ((p->rows + 1) / 2) + two) * MOST;
}

INLINE void round_rows(const LowRank *p) {
#pragma omp for collapse(2) schedule(static)
    for (long trial = 0; trial < p->trials; trial++)
        for (long two = 0; two < (p->rows + 1) / 2; two++) {
            if (!rounds(p, trial)) continue;
            __mmask16 dims = first(p->dims[trial]);
            __m512 low = _mm512_maskz_loadu_ps(dims, own_row(p, trial, 2 * two));
            __m512 high = 2 * two + 1 < p->rows ? _mm512_maskz_loadu_ps(dims, own_row(p, trial, 2 * two + 1)) : _mm512_setzero_ps();
            _mm512_storeu_si512(two_rows(p, trial, two), (__m512i)interleaved(low, high));
        }
}

/* 32 columns of up to 8 dims, two rows at a time; dims is a constant. */
INLINE void sum_rounded(const LowRank *p, long trial, long column, long dim, int dims) {
    __m512 sums[2][SUMMED];
    __mmask32 there = first_halves(p->d - column);
    FOR(k, 2) FOR(j, dims) sums[k][j] = _mm512_setzero_ps();
    for (long two = 0; two < (p->rows + 1) / 2; two++) {
        const uint32_t *own = two_rows(p, trial, two) + dim;
        long at = (trial * p->rows + 2 * two) * p->d + column;
        __m512i one = (__m512i)halves(p->x, at, there);
        __m512i other = (__m512i)halves(p->x, at + p->d, 2 * two + 1 < p->rows ? there : 0);
        __m512bh low = (__m512bh)_mm512_unpacklo_epi16(one, other), high = (__m512bh)_mm512_unpackhi_epi16(one, other);
        FOR(j, dims) {
            sums[0][j] = _mm512_dpbf16_ps(sums[0][j], everywhere(own[j]), low);
            sums[1][j] = _mm512_dpbf16_ps(sums[1][j], everywhere(own[j]), high);
        }
    }
    /* What was unpacked by fours comes back in its order. */
    const __m512i front = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i back = _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
    float *to = p->pair + (trial * p->pair_rows + dim) * p->d + column;
    FOR(j, dims) {
        if (dim + j >= p->dims[trial]) break;
        _mm512_mask_storeu_ps(to + j * p->d, (__mmask16)there, _mm512_permutex2var_ps(sums[0][j], front, sums[1][j]));
        _mm512_mask_storeu_ps(to + j * p->d + FLOATS, (__mmask16)(there >> FLOATS), _mm512_permutex2var_ps(sums[0][j], back, sums[1][j]));
    }
}

void sum_rows(const LowRank *p) {
    EACH_THREAD(p) {
        round_rows(p);
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (long trial = 0; trial < p->trials; trial++)
            for (long column = 0; column < p->d; column += PANELS * FLOATS) {
                long r = p->dims[trial];
                if (rounds(p, trial)) {
                    for (long part = column; part < least(column + PANELS * FLOATS, p->d); part += HALVES)
                        for (long dim = 0; dim < r; dim += SUMMED)
                            r - dim > 4 ? sum_rounded(p, trial, part, dim, SUMMED) : sum_rounded(p, trial, part, dim, 4);
                    continue;
                }
                for (long dim = 0; dim < r; dim += DIMS) {
#define TILE(dims) p->in_bf16 ? sum_tile(p, trial, column, dim, dims, 1) : sum_tile(p, trial, column, dim, dims, 0)
                    FULL_OR_LESS(TILE, r - dim)
#undef TILE
                }
            }
    }
}
