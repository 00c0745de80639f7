/* GELU by tanh, as GPT-2 and GPT-J have it, in one pass:
 * x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "made for processors that have AVX-512"
#endif

#define INLINE static inline __attribute__((always_inline))
#define FLOATS 16 /* of a register */
#define WORTH_THREADS (1 << 16)

INLINE __m512 of(float number) { return _mm512_set1_ps(number); }

/* e^x = 2^n e^r, n whole, |r| <= ln(2) / 2, e^r by its series up to r^6, off by 2e-7 at most. */
INLINE __m512 exponential(__m512 x) {
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, of(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, of(0.693145752f), x);
    r = _mm512_fnmadd_ps(n, of(1.42860677e-6f), r);
    __m512 sum = of(1.0f / 720);
    sum = _mm512_fmadd_ps(sum, r, of(1.0f / 120));
    sum = _mm512_fmadd_ps(sum, r, of(1.0f / 24));
    sum = _mm512_fmadd_ps(sum, r, of(1.0f / 6));
    sum = _mm512_fmadd_ps(sum, r, of(0.5f));
    sum = _mm512_fmadd_ps(sum, r, of(1));
    sum = _mm512_fmadd_ps(sum, r, of(1));
    return _mm512_scalef_ps(sum, n);
}

INLINE __m512 gelu_of(__m512 x) {
    __m512 u = _mm512_mul_ps(x, _mm512_fmadd_ps(_mm512_mul_ps(x, x), of(0.044715f), of(1)));
    __m512 power = _mm512_mul_ps(u, of(-1.59576912f)); /* -2 sqrt(2 / pi) */
    /* Beyond 88 the quotient is as good as 0, or x. It is NaN where x is, whatever comes out here. */
    power = _mm512_min_ps(of(88), _mm512_max_ps(of(-88), power));
    return _mm512_div_ps(x, _mm512_add_ps(of(1), exponential(power)));
}

INLINE __m512i nearest_bf16(__m512 value) {
    __m512i bits = _mm512_castps_si512(value);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q); /* whose bits would carry over */
    return _mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000)), 16);
}

/* y (count) of x (count), both bf16 or both fp32. */
void gelu(const void *x, void *y, long count, int in_bf16, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > WORTH_THREADS)
    for (long i = 0; i < count; i += FLOATS) {
        __mmask16 there = count - i >= FLOATS ? 0xffff : (__mmask16)((1u << (count - i)) - 1);
        if (!in_bf16) {
            __m512 own = _mm512_maskz_loadu_ps(there, (const float *)x + i);
            _mm512_mask_storeu_ps((float *)y + i, there, gelu_of(own));
            continue;
        }
        __m256i halves = _mm256_maskz_loadu_epi16(there, (const uint16_t *)x + i);
        __m512 own = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
        _mm256_mask_storeu_epi16((uint16_t *)y + i, there, _mm512_cvtepi32_epi16(nearest_bf16(gelu_of(own))));
    }
}
