// Sixteen numbers at once, in the vectors that GCC and Clang have for every processor.

#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef int64_t Int;
constexpr Int LANES = 16;
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

namespace {

template <class T> inline T load(const void *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Int ceiling(Int n, Int by) { return (n + by - 1) / by; }

inline Vec whole(float value) { return value - Vec{}; }

inline Vec each(uint32_t bits) {  // the same 32 bits everywhere
    Bits all = bits - Bits{};
    return (Vec)all;
}

inline Vec larger(Vec a, Vec b) {
#ifdef __AVX512F__
    return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}

inline Vec smaller(Vec a, Vec b) {
#ifdef __AVX512F__
    return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
#else
    return a < b ? a : b;
#endif
}

inline float greatest(Vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

// The numbers of a vector added up, and of sixteen at once, each in the same order (which many_rows.hpp has too).
#ifdef __AVX512F__
inline float sum(Vec vector) {
    __m512 v = (__m512)vector;
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
    v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    return _mm512_cvtss_f32(_mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e)));
}

inline void sums(const Vec *vectors, Int count, float *to) {
    for (; count >= LANES; count -= LANES, vectors += LANES, to += LANES) {
        __m512 v[LANES];
        std::memcpy(v, vectors, sizeof v);
        for (int i = 0; i < 8; i++)
            v[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
        for (int i = 0; i < 4; i++) {
            __m512d a = _mm512_castps_pd(v[2 * i]), b = _mm512_castps_pd(v[2 * i + 1]);
            v[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
        }
        for (int left = 2; left; left /= 2)
            for (int i = 0; i < left; i++)
                v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),
                                     _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));
        std::memcpy(to, v, sizeof v[0]);
    }
    for (Int i = 0; i < count; i++) to[i] = sum(vectors[i]);
}
#else
inline float sum(Vec v) {
    typedef float Half __attribute__((vector_size(2 * LANES)));
    typedef float Quarter __attribute__((vector_size(LANES)));
    Half halves[2], half;
    std::memcpy(halves, &v, sizeof v);
    half = halves[0] + halves[1];
    Quarter quarters[2], q;
    std::memcpy(quarters, &half, sizeof half);
    q = quarters[0] + quarters[1];
    return (q[0] + q[2]) + (q[1] + q[3]);
}

inline void sums(const Vec *vectors, Int count, float *to) {
    for (Int i = 0; i < count; i++) to[i] = sum(vectors[i]);
}
#endif

inline float from_bf16(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    return load<float>(&bits);
}

inline Halves to_bf16(Vec v) {  // to the nearest, ties to even
#ifdef __AVX512BF16__
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    Bits bits = load<Bits>(&v);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector(bits, Halves);
#endif
}

// Bytes to 32 bits; compilers make a long way of it themselves.
#ifdef __AVX512F__
inline Whole widened(const int8_t *from) { return (Whole)_mm512_cvtepi8_epi32(load<__m128i>(from)); }
inline Whole widened(const uint8_t *from) { return (Whole)_mm512_cvtepu8_epi32(load<__m128i>(from)); }
#else
template <class Byte> inline Whole widened(const Byte *from) {
    Whole w;
    for (Int j = 0; j < LANES; j++) w[j] = from[j];
    return w;
}
#endif

// Numbers that stay in their register, where compilers would fetch them anew for each product.
template <class T> inline T held(T value) {
#ifdef __AVX512F__
    asm("" : "+v"(value));
#endif
    return value;
}

// Number j of vector i becomes number i of vector j.
inline void transpose(Bits *v) {
#ifdef __AVX512F__
    __m512i a[LANES], b[LANES];
    std::memcpy(a, v, sizeof a);
    for (int i = 0; i < LANES; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int i = 0; i < LANES; i += 8)
        for (int j = 0; j < 4; j++) {
            b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
        a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
    }
    std::memcpy(v, a, sizeof a);
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            uint32_t kept = v[i][j];
            v[i][j] = v[j][i];
            v[j][i] = kept;
        }
#endif
}

inline void fetch_ahead(const float *from, Int count) {
    for (Int i = 0; i < count; i += LANES) __builtin_prefetch(from + i, 1);
}

// Room for numbers, which are not set. It begins with a line of the cache, so that what is loaded at once does
// not lie across two.
class Numbers {
    static constexpr std::align_val_t LINE{4 * LANES};
    float *const room;

  public:
    explicit Numbers(Int size) : room((float *)operator new((size + LANES) * sizeof(float), LINE)) {}
    Numbers(const Numbers &) = delete;
    ~Numbers() { operator delete(room, LINE); }
    operator float *() const { return room; }
    Bits *bits() const { return (Bits *)room; }
};

}  // namespace
