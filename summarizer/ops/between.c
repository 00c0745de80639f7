/* What lies between a token's products: norms, activations, sums. In fp32, on one thread: a few rows are a few
 * microseconds of work, less than it takes to wake another thread. */
#include <math.h>

#include "vectors.h"

typedef struct {
    const float *x;             /* (rows, d) */
    const float *weight, *bias; /* (d); bias may be none */
    float *y;                   /* (rows, d) */
    long rows, d;
    float epsilon;
    int centerd; /* a layer norm; else by the root mean square alone */
} Norm;

int norm(const Norm *n) {
    for (long row = 0; row < n->rows; row++) {
        const float *x = n->x + row * n->d;
        float *y = n->y + row * n->d;
        __m512 sums = _mm512_setzero_ps(), squares = sums;
        float mean = 0;
        if (n->centerd) {
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

typedef struct {
    float *x;           /* (count), replaced */
    const float *times; /* (count), or none: what the activation is multiplied by */
    long count;
    int tanh_gelu; /* else SiLU */
} Activation;

/* Both are x / (1 + e^-z): SiLU with z = x, and since 1 + tanh(u) = 2 / (1 + e^-2u), GELU by tanh with z = 2u. */
int activate(const Activation *a) {
    const __m512 one = _mm512_set1_ps(1), cubic = _mm512_set1_ps(0.044715f);
    const __m512 twice_root = _mm512_set1_ps(1.5957691216057308f); /* 2 sqrt(2 / pi) */
    for (long i = 0; i < a->count; i += FLOATS) {
        __mmask16 there = first(a->count - i);
        __m512 x = _mm512_maskz_loadu_ps(there, a->x + i), z = x;
        if (a->tanh_gelu) {
            __m512 factor = _mm512_fmadd_ps(_mm512_mul_ps(x, x), cubic, one);
            z = _mm512_mul_ps(_mm512_mul_ps(x, factor), twice_root);
        }
        __m512 small = exponential(_mm512_sub_ps(_mm512_setzero_ps(), z));
        __m512 y = _mm512_div_ps(x, _mm512_add_ps(one, small));
        if (a->times) y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(there, a->times + i));
        _mm512_mask_storeu_ps(a->x + i, there, y);
    }
    return 0;
}

typedef struct {
    float *x;           /* (count), added to */
    const float *added; /* (count) */
    long count;
} Sum;

int add(const Sum *s) {
    for (long i = 0; i < s->count; i += FLOATS) {
        __mmask16 there = first(s->count - i);
        __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(there, s->x + i), _mm512_maskz_loadu_ps(there, s->added + i));
        _mm512_mask_storeu_ps(s->x + i, there, sum);
    }
    return 0;
}
