// Products of a matrix in float32, bfloat16, 8 or 4 bits with a few rows of numbers, for which memory is what
// is waited for: weights are read once, row by row.
//
// A number is added up in the same order whatever else is computed beside it, so that a row gives the same
// alone and among others, on one thread and on many.

#pragma once

#include "vectors.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

constexpr Int PART = 2 * LANES;  // neighbouring weights that are taken at once

enum Kind : Int { FP32, BF16, INT8, INT4 };

struct Matrix {  // (outputs, inputs); laid out as sishu.native.decode has it
    Int kind, outputs, inputs;
    const void *weight;  // INT4: 16 bytes for 32 inputs, byte j holds inputs j (low half) and j + 16
    const void *scale;   // INT8: bfloat16 (outputs,); INT4: bfloat16, scale and lowest, for 32 inputs
    const float *bias;   // (outputs,) or none
};

namespace {

// 32 neighbouring weights of a row in float32, and what they add to a sum. Where the processor multiplies
// pairs of bfloat16, weights that are smaller than float32 are multiplied so.

struct Wide {
    typedef float Number;
    static constexpr Int EACH = 1;  // numbers in a lane of a vector
    Vec a, b;
    static inline Wide of(const float *x) { return {held(load<Vec>(x)), held(load<Vec>(x + LANES))}; }
    static inline Wide rounded(const float *x) { return {load<Vec>(x), load<Vec>(x + LANES)}; }
    static inline Vec times(Vec w, Vec x, Vec acc) { return acc + w * x; }
    inline Vec times(const Wide &x, Vec acc) const { return times(b, x.b, times(a, x.a, acc)); }
};

#ifdef __AVX512BF16__
struct Narrow {
    typedef uint16_t Number;
    static constexpr Int EACH = 2;
    Vec pairs;
    Narrow() = default;
    explicit Narrow(const Wide &w) : pairs((Vec)_mm512_cvtne2ps_pbh((__m512)w.b, (__m512)w.a)) {}
    explicit Narrow(const uint16_t *from) : pairs(load<Vec>(from)) {}
    static inline Narrow of(const uint16_t *x) {
        const Vec numbers = held(load<Vec>(x));
        return Narrow((const uint16_t *)&numbers);
    }
    static inline Narrow rounded(const float *x) {
        const Halves halves[] = {to_bf16(load<Vec>(x)), to_bf16(load<Vec>(x + LANES))};
        return Narrow((const uint16_t *)halves);
    }
    static inline Vec times(Vec w, Vec x, Vec acc) {
        return (Vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
    }
    inline Vec times(const Narrow &x, Vec acc) const { return times(pairs, x.pairs, acc); }
};
#else
typedef Wide Narrow;
#endif

constexpr bool PAIRS = Narrow::EACH == 2;

// What a matrix is read by: a part, one weight, the last step of a sum over a row, a hint to fetch ahead.

struct Fp32 {
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

// Where outputs from `first` on go: rows of `across` numbers, which are replaced or added to.
struct Target {
    float *to;
    Int first, across;
    const float *bias;
    bool add;
    inline float *at(Int row, Int o) const { return to + row * across + o - first; }
    inline void put(Int row, Int o, Int count, float *block) const {
        float *kept = at(row, o);
        if (bias)
            for (Int j = 0; j < count; j++) block[j] += bias[o + j];
        if (add)
            for (Int j = 0; j < count; j++) block[j] += kept[j];
        std::memcpy(kept, block, sizeof(float) * count);
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

// Outputs begin … end for all rows. Weights come from memory once: a few outputs are computed for all rows
// before those that follow.
template <class W> void product(const W &w, Int begin, Int end, const Rows &x, Int rows, const Target &y) {
    for (Int from = begin; from < end; from += AT_ONCE)
        all_rows(w, from, std::min(end, from + AT_ONCE), x, rows, y);
}

}  // namespace
