// Products of a matrix in float32, bfloat16, 8 or 4 bits with a few rows of numbers.
//
// A number is added up in the same order whatever else is computed beside it, so that a row gives the same
// alone and among others, on one thread and on many.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef int64_t Int;
constexpr Int LANES = 16;
constexpr Int PART = 2 * LANES;  // neighbouring weights that are taken at once
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

enum Kind : Int { FP32, BF16, INT8, INT4 };

struct Matrix {  // (outputs, inputs); laid out as sishu.native.decode has it
    Int kind, outputs, inputs;
    const void *weight;  // INT4: 16 bytes for 32 inputs, byte j holds inputs j (low half) and j + 16
    const void *scale;   // INT8: bfloat16 (outputs,); INT4: bfloat16, scale and lowest, for 32 inputs
    const float *bias;   // (outputs,) or none
};

namespace {

template <class T> inline T load(const void *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Vec whole(float value) { return value - Vec{}; }

// The numbers of a vector added up, and of sixteen at once, each in the same order.
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
    Bits bits = load<Bits>(&v);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector(bits, Halves);
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

// 32 neighbouring weights of a row in float32, and what they add to a sum. Where the processor multiplies
// pairs of bfloat16, weights that are smaller than float32 are multiplied so.

struct Wide {
    typedef float Number;
    Vec a, b;
    static inline Wide of(const float *x) { return {held(load<Vec>(x)), held(load<Vec>(x + LANES))}; }
    inline Vec times(const Wide &x, Vec acc) const {
        acc += a * x.a;
        return acc + b * x.b;
    }
};

#ifdef __AVX512BF16__
struct Narrow {
    typedef uint16_t Number;
    __m512bh pairs;
    Narrow() = default;
    explicit Narrow(const Wide &w) : pairs(_mm512_cvtne2ps_pbh((__m512)w.b, (__m512)w.a)) {}
    explicit Narrow(const uint16_t *from) : pairs(load<__m512bh>(from)) {}
    static inline Narrow of(const uint16_t *x) {
        const Vec numbers = held(load<Vec>(x));
        return Narrow((const uint16_t *)&numbers);
    }
    inline Vec times(const Narrow &x, Vec acc) const {
        return (Vec)_mm512_dpbf16_ps((__m512)acc, pairs, x.pairs);
    }
};
#else
typedef Wide Narrow;
#endif

// What a matrix is read by: a part, one weight, the last step of a sum over a row, a hint to fetch ahead.

struct Fp32 {
    static constexpr bool PACKED = false;
    typedef Wide Part;
    const float *weight;
    Int inputs;
    Fp32(const float *numbers, Int count) : weight(numbers), inputs(count) {}
    explicit Fp32(const Matrix &m) : Fp32((const float *)m.weight, m.inputs) {}
    inline Part part(Int o, Int i) const {
        const float *from = weight + o * inputs + i;
        return {load<Vec>(from), load<Vec>(from + LANES)};
    }
    inline float one(Int o, Int i) const { return weight[o * inputs + i]; }
    inline void scale_up(Int, Int, float *) const {}
    inline const void *at(Int o, Int i) const { return weight + o * inputs + i; }
};

struct Bf16 {
    static constexpr bool PACKED = false;
    typedef Narrow Part;
    const uint16_t *weight;
    Int inputs;
    explicit Bf16(const Matrix &m) : weight((const uint16_t *)m.weight), inputs(m.inputs) {}
    inline Part part(Int o, Int i) const {
        const uint16_t *from = weight + o * inputs + i;
#ifdef __AVX512BF16__
        return Part(from);
#else
        Bits a = __builtin_convertvector(load<Halves>(from), Bits) << 16;
        Bits b = __builtin_convertvector(load<Halves>(from + LANES), Bits) << 16;
        return {load<Vec>(&a), load<Vec>(&b)};
#endif
    }
    inline float one(Int o, Int i) const { return from_bf16(weight[o * inputs + i]); }
    inline void scale_up(Int, Int, float *) const {}
    inline const void *at(Int o, Int i) const { return weight + o * inputs + i; }
};

struct Int8 {
    static constexpr bool PACKED = true;
    typedef Narrow Part;
    const int8_t *weight;
    const uint16_t *scale;
    Int inputs;
    explicit Int8(const Matrix &m)
        : weight((const int8_t *)m.weight), scale((const uint16_t *)m.scale), inputs(m.inputs) {}
    inline Part part(Int o, Int i) const {
        const int8_t *from = weight + o * inputs + i;
        return Part(Wide{__builtin_convertvector(widened(from), Vec),
                         __builtin_convertvector(widened(from + LANES), Vec)});
    }
    inline float one(Int o, Int i) const { return weight[o * inputs + i]; }
    inline void scale_up(Int o, Int count, float *y) const {
        for (Int j = 0; j < count; j++) y[j] *= from_bf16(scale[o + j]);
    }
    inline const void *at(Int o, Int i) const { return weight + o * inputs + i; }
};

struct Int4 {
    static constexpr bool PACKED = true;
    typedef Narrow Part;
    const uint8_t *weight;
    const uint32_t *scale;
    Int inputs;
    explicit Int4(const Matrix &m)
        : weight((const uint8_t *)m.weight), scale((const uint32_t *)m.scale), inputs(m.inputs) {}
    inline Wide wide(Int o, Int i) const {
        Int group = (o * inputs + i) / PART;
        uint32_t both = scale[group], first = both << 16, second = both & 0xffff0000u;
        Vec step = whole(load<float>(&first)), lowest = whole(load<float>(&second));
        Whole codes = widened(weight + LANES * group);
        return {__builtin_convertvector(codes & 15, Vec) * step + lowest,
                __builtin_convertvector(codes >> 4, Vec) * step + lowest};
    }
    inline Part part(Int o, Int i) const { return Part(wide(o, i)); }
    inline float one(Int, Int) const { return 0; }  // there are whole groups alone
    inline void scale_up(Int, Int, float *) const {}
    inline const void *at(Int o, Int i) const { return weight + (o * inputs + i) / 2; }
};

// Rows of n numbers, in float32 and, where that is how they are multiplied, in bfloat16.
struct Rows {
    const float *wide;
    const uint16_t *narrow;
    Int n;
    inline const float *at(Int row, Int i, float) const { return wide + row * n + i; }
    inline const uint16_t *at(Int row, Int i, uint16_t) const { return narrow + row * n + i; }
};

// Where outputs go: rows of `across` numbers, which are replaced or added to.
struct Target {
    float *to;
    Int across;
    const float *bias;
    bool add;
    inline void put(Int row, Int o, Int count, float *block) const {
        float *at = to + row * across + o;
        if (bias)
            for (Int j = 0; j < count; j++) block[j] += bias[o + j];
        if (add)
            for (Int j = 0; j < count; j++) block[j] += at[j];
        std::memcpy(at, block, sizeof(float) * count);
    }
};

constexpr Int AT_ONCE = LANES;  // outputs that are computed for all rows before those that follow

// Outputs o … o + O of rows row … row + R.
template <int O, int R, class W>
inline void tile(const W &w, Int o, const Rows &x, Int row, float (*to)[AT_ONCE]) {
    typedef typename W::Part::Number Number;
    Vec acc[R][O] = {};
    Int i = 0;
    for (; i + PART <= x.n; i += PART) {
        typename W::Part parts[O];
        for (int a = 0; a < O; a++) {
            __builtin_prefetch(w.at(o + a + 2, i));
            parts[a] = w.part(o + a, i);
        }
        for (int r = 0; r < R; r++) {
            const typename W::Part other = W::Part::of(x.at(row + r, i, Number()));
            for (int a = 0; a < O; a++) acc[r][a] = parts[a].times(other, acc[r][a]);
        }
    }
    float whole[R][O];
    sums(&acc[0][0], O * R, &whole[0][0]);
    for (; i < x.n; i++)
        for (int r = 0; r < R; r++)
            for (int a = 0; a < O; a++)  // said, because compilers would do it for some numbers of rows alone
                whole[r][a] = std::fma(w.one(o + a, i), x.wide[(row + r) * x.n + i], whole[r][a]);
    for (int r = 0; r < R; r++) std::memcpy(to[r], whole[r], sizeof whole[r]);
}

template <int R, class W>
inline void some_rows(const W &w, Int begin, Int end, const Rows &x, Int &row, const Target &y) {
    constexpr int O = R <= 2 ? 1 : 2;  // one after another where memory is what is waited for
    float block[R][AT_ONCE];
    Int o = begin;
    for (; o + O <= end; o += O) tile<O, R>(w, o, x, row, (float(*)[AT_ONCE]) & block[0][o - begin]);
    for (; o < end; o++) tile<1, R>(w, o, x, row, (float(*)[AT_ONCE]) & block[0][o - begin]);
    for (int r = 0; r < R; r++) {
        w.scale_up(begin, end - begin, block[r]);
        y.put(row + r, begin, end - begin, block[r]);
    }
    row += R;
}

template <class W> inline void all_rows(const W &w, Int begin, Int end, const Rows &x, Int rows, const Target &y) {
    Int row = 0;
    while (row + 8 <= rows) some_rows<8>(w, begin, end, x, row, y);
    if (row + 4 <= rows) some_rows<4>(w, begin, end, x, row, y);
    if (row + 2 <= rows) some_rows<2>(w, begin, end, x, row, y);
    if (row < rows) some_rows<1>(w, begin, end, x, row, y);
}

// Some outputs of a matrix in the form in which they are multiplied, so that many rows do not each make it anew.
template <class W> struct Unpacked {
    typedef typename W::Part Part;
    const W &w;
    const Int first;
    std::vector<Part> parts;
    Unpacked(const W &packed, Int begin, Int end, Int n) : w(packed), first(begin) {
        parts.reserve((end - begin) * n / PART);
        for (Int o = begin; o < end; o++)
            for (Int i = 0; i + PART <= n; i += PART) parts.push_back(w.part(o, i));
    }
    inline const Part &part(Int o, Int i) const { return parts[((o - first) * w.inputs + i) / PART]; }
    inline float one(Int o, Int i) const { return w.one(o, i); }
    inline void scale_up(Int o, Int count, float *y) const { w.scale_up(o, count, y); }
    inline const void *at(Int o, Int i) const { return w.at(o, i); }
};

// Outputs begin … end for all rows. Weights come from memory once: a few outputs are computed for all rows
// before those that follow.
template <class W> void product(const W &w, Int begin, Int end, const Rows &x, Int rows, const Target &y) {
    for (Int from = begin; from < end; from += AT_ONCE) {
        Int to = std::min(end, from + AT_ONCE);
        if (W::PACKED && rows > 16 && x.n % PART == 0)
            all_rows(Unpacked<W>(w, from, to, x.n), from, to, x, rows, y);
        else
            all_rows(w, from, to, x, rows, y);
    }
}

struct alignas(4 * LANES) Line {  // what is loaded at once should not lie across two lines of the cache
    float number[LANES];
};

class Numbers {
    std::vector<Line> lines;

  public:
    explicit Numbers(Int size) : lines((size + LANES - 1) / LANES) {}
    operator float *() { return lines.front().number; }
};

// Numbers as they are multiplied with smaller weights; the last ones, of no whole part, are not looked at.
inline void narrow(const float *from, Int n, uint16_t *to) {
    for (Int i = 0; i + PART <= n; i += PART) {
        Halves halves[] = {to_bf16(load<Vec>(from + i)), to_bf16(load<Vec>(from + i + LANES))};
        std::memcpy(to + i, halves, sizeof halves);
    }
}

void multiply(const Matrix &m, Int begin, Int end, const Rows &x, Int rows, const Target &y) {
    if (m.kind == FP32) product(Fp32(m), begin, end, x, rows, y);
    if (m.kind == BF16) product(Bf16(m), begin, end, x, rows, y);
    if (m.kind == INT8) product(Int8(m), begin, end, x, rows, y);
    if (m.kind == INT4) product(Int4(m), begin, end, x, rows, y);
}

}  // namespace
