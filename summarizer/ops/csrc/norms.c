/* Norms of rows in fp32: RMS normalization and its gradient as training wants them, each in one pass over memory (a row
 * stays in the first cache between its sum and its product), and both norms of the few rows of a token that is decoded.
 *
 * Source: Zhang and Sennrich 2019 (arXiv:1910.07467), Ba et al. 2016 (arXiv:1607.06450).
 */
#include <math.h>

#include "vectors.h"

#define WORTH_THREADS (1 << 14) /* numbers from which on waking another thread costs less than it saves */

INLINE __m512 load(const float *x, long i, long d) { return _mm512_maskz_loadu_ps(first(d - i), x + i); }
INLINE void store(float *y, long i, long d, __m512 x) { _mm512_mask_storeu_ps(y + i, first(d - i), x); }

/* rate: 1 / sqrt(mean(x^2) + epsilon) of each row, which the gradient needs again. */
void rms_norm(const float *x, const float *weight, float epsilon, long rows, long d, float *y, float *rate, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * d > WORTH_THREADS)
    for (long row = 0; row < rows; row++) {
        const float *own = x + row * d;
        __m512 squares = _mm512_setzero_ps();
        for (long i = 0; i < d; i += FLOATS) {
            __m512 part = load(own, i, d);
            squares = _mm512_fmadd_ps(part, part, squares);
        }
        rate[row] = 1 / sqrtf(_mm512_reduce_add_ps(squares) / d + epsilon);
        __m512 by = _mm512_set1_ps(rate[row]);
        for (long i = 0; i < d; i += FLOATS)
            store(y + row * d, i, d, _mm512_mul_ps(load(weight, i, d), _mm512_mul_ps(load(own, i, d), by)));
    }
}

/* The gradient of x from that of y: rate h - x rate^3 mean(h x), of h = grad weight. */
void rms_norm_backward(const float *grad, const float *x, const float *weight, const float *rate, long rows, long d,
                       float *grad_x, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * d > WORTH_THREADS)
    for (long row = 0; row < rows; row++) {
        const float *own = x + row * d, *of_y = grad + row * d;
        __m512 dots = _mm512_setzero_ps();
        for (long i = 0; i < d; i += FLOATS)
            dots = _mm512_fmadd_ps(_mm512_mul_ps(load(of_y, i, d), load(weight, i, d)), load(own, i, d), dots);
        float r = rate[row];
        __m512 by = _mm512_set1_ps(r), back = _mm512_set1_ps(r * r * r * _mm512_reduce_add_ps(dots) / d);
        for (long i = 0; i < d; i += FLOATS) {
            __m512 straight = _mm512_mul_ps(by, _mm512_mul_ps(load(of_y, i, d), load(weight, i, d)));
            store(grad_x + row * d, i, d, _mm512_fnmadd_ps(load(own, i, d), back, straight));
        }
    }
}

/* ---- of the few rows that are decoded: on one thread, since they are a few microseconds of work, less than it takes to
 * wake another ---- */

typedef struct {
    const float *x;             /* (rows, d) */
    const float *weight, *bias; /* (d); bias may be none */
    float *y;                   /* (rows, d) */
    long rows, d;
    float epsilon;
    int centered; /* a layer norm; else by the root mean square alone */
} Norm;

int norm(const Norm *n) {
    for (long row = 0; row < n->rows; row++) {
        const float *x = n->x + row * n->d;
        float *y = n->y + row * n->d;
        __m512 sums = _mm512_setzero_ps(), squares = sums;
        float mean = 0;
        if (n->centered) {
            for (long i = 0; i < n->d; i += FLOATS)
                sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(first(n->d - i), x + i));
            mean = _mm512_reduce_add_ps(sums) / n->d;
        }
        for (long i = 0; i < n->d; i += FLOATS) {
            __mmask16 there = first(n->d - i);
            __m512 from_mean = _mm512_maskz_sub_ps(there, _mm512_maskz_loadu_ps(there, x + i), _mm512_set1_ps(mean));
            squares = _mm512_fmadd_ps(from_mean, from_mean, squares);
        }
        __m512 scale = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / n->d + n->epsilon));
        for (long i = 0; i < n->d; i += FLOATS) {
            __mmask16 there = first(n->d - i);
            __m512 from_mean = _mm512_sub_ps(_mm512_maskz_loadu_ps(there, x + i), _mm512_set1_ps(mean));
            __m512 bias = n->bias ? _mm512_maskz_loadu_ps(there, n->bias + i) : _mm512_setzero_ps();
            __m512 weight = _mm512_maskz_loadu_ps(there, n->weight + i);
            _mm512_mask_storeu_ps(y + i, there, _mm512_fmadd_ps(_mm512_mul_ps(from_mean, scale), weight, bias));
        }
    }
    return 0;
}
