/* Elementwise operations between a decoded token's products: activations and sums. In fp32, on one thread: a few rows are a
 * few microseconds of work, less than it takes to wake another thread. */
#include "vectors.h"

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
