// Products of a matrix with many rows of numbers, for which multiplying is what takes the time.
//
// Weights are first laid out anew: a vector holds a quarter of the lanes of four outputs, and is multiplied with
// that quarter of a row, four times over. What the quarters give is joined in the order in which `sum` joins the
// lanes of a vector (products.hpp): a row gives the same, to the last bit, as it gives among few.

#pragma once

#include "products.hpp"

namespace {

constexpr Int BLOCK = 96;  // outputs that are computed for all rows before those that follow, at most

// How many numbers sixteen outputs take when they are laid out anew.
template <class Part> constexpr Int laid_out(Int inputs) {
    return inputs / PART * LANES * LANES * Int(sizeof(Part) / sizeof(Vec));
}

// Where a thread lays weights out.
inline Numbers room_for_weights(Int inputs) { return Numbers(BLOCK / LANES * laid_out<Wide>(inputs)); }

#ifdef __AVX512F__
constexpr Int MANY = 16;  // rows above which this is faster
constexpr int FOUR = 4;   // rows, vectors of outputs, quarters

// Outputs first … first + count, at most sixteen: for each quarter, each part, each half of it where halves are
// multiplied one after the other, and each v, the quarter of outputs v, v + 4, v + 8, v + 12.
template <class W> void lay_out(const W &w, Int first, Int count, Int inputs, float *to) {
    typedef typename W::Part Part;
    constexpr int HALVES = sizeof(Part) / sizeof(Vec);
    const Int parts = inputs / PART;
    for (Int p = 0; p < parts; p++)
        for (Int v = 0; v < FOUR; v++) {
            __m512 lanes[FOUR][HALVES] = {};
            for (Int i = 0; i < FOUR && v + i * FOUR < count; i++) {
                const Part part = w.part(first + v + i * FOUR, p * PART);
                std::memcpy(lanes[i], &part, sizeof part);
            }
            for (int h = 0; h < HALVES; h++) {
                const __m512 a = _mm512_shuffle_f32x4(lanes[0][h], lanes[1][h], 0x44);
                const __m512 b = _mm512_shuffle_f32x4(lanes[2][h], lanes[3][h], 0x44);
                const __m512 c = _mm512_shuffle_f32x4(lanes[0][h], lanes[1][h], 0xee);
                const __m512 d = _mm512_shuffle_f32x4(lanes[2][h], lanes[3][h], 0xee);
                const __m512 quarters[] = {_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd),
                                           _mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd)};
                for (Int q = 0; q < FOUR; q++)
                    std::memcpy(to + (((q * parts + p) * HALVES + h) * FOUR + v) * LANES, &quarters[q], sizeof(Vec));
            }
        }
}

// The lanes of four vectors added up quarter by quarter: number i of a quarter is what vector i has there.
inline Vec quarter_sums(const Vec *v) {
    __m512 a[2];
    for (int i = 0; i < 2; i++) {
        const __m512 one = (__m512)v[2 * i], other = (__m512)v[2 * i + 1];
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(one, other), _mm512_unpackhi_ps(one, other));
    }
    const __m512d one = _mm512_castps_pd(a[0]), other = _mm512_castps_pd(a[1]);
    return (Vec)_mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                              _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
}

// A quarter of a part of a row, four times over.
inline Vec quarter(const void *from) {
    return (Vec)_mm512_broadcast_f32x4(load<__m128>(from));
}

// Sixteen outputs of rows row … row + 3.
template <class Part> __attribute__((noinline)) void tile(const float *w, const Rows &x, Int row, float (*to)[BLOCK]) {
    typedef typename Part::Number Number;
    constexpr int HALVES = sizeof(Part) / sizeof(Vec);
    constexpr Int QUARTER = LANES / FOUR * Part::EACH;  // numbers of a row
    const Number *rows[FOUR];
    for (int r = 0; r < FOUR; r++) rows[r] = x.at(row + r, 0, Number());
    Vec sums[FOUR], pair[FOUR];
    for (int q = 0; q < FOUR; q++) {
        Vec acc[FOUR][FOUR] = {};
        for (Int i = q * QUARTER; i + PART <= x.n + q * QUARTER; i += PART)
            for (int h = 0; h < HALVES; h++, w += FOUR * LANES) {
                Vec weights[FOUR];
                for (int v = 0; v < FOUR; v++) weights[v] = held(load<Vec>(w + v * LANES));
                for (int r = 0; r < FOUR; r++) {
                    const Vec numbers = held(quarter(rows[r] + i + h * LANES));
                    for (int v = 0; v < FOUR; v++) acc[r][v] = Part::times(weights[v], numbers, acc[r][v]);
                }
            }
        for (int r = 0; r < FOUR; r++) {
            const Vec found = quarter_sums(acc[r]);
            if (q == 0) sums[r] = found;
            if (q == 1) sums[r] += found;
            if (q == 2) pair[r] = found;
            if (q == 3) sums[r] += pair[r] + found;
        }
    }
    for (int r = 0; r < FOUR; r++) std::memcpy(to[r], &sums[r], sizeof sums[r]);
}

// Outputs begin … end, at most BLOCK, for all rows.
template <class W>
void product_of_many(const W &w, Int begin, Int end, const Rows &x, Int rows, const Target &y, float *room) {
    typedef typename W::Part Part;
    const Int size = laid_out<Part>(x.n), count = end - begin;
    const char *following = (const char *)w.at(end, 0);  // weights that are needed next
    const Int ahead = (following - (const char *)w.at(begin, 0)) / rows;
    for (Int o = 0; o < count; o += LANES)
        lay_out(w, begin + o, std::min(count - o, LANES), x.n, room + o / LANES * size);
    for (Int row = 0; row < rows; row += FOUR) {
        const Int from = std::min(row, rows - FOUR);  // the last four rows may have been computed in part
        for (Int r = row; r < from + FOUR; r++) fetch_ahead(y.at(r, begin), count);
        for (Int i = row * ahead; i < (row + FOUR) * ahead; i += 64) __builtin_prefetch(following + i);
        float block[FOUR][BLOCK];
        for (Int o = 0; o < count; o += LANES)
            tile<Part>(room + o / LANES * size, x, from, (float(*)[BLOCK]) & block[0][o]);
        for (Int r = row; r < from + FOUR; r++) {
            float *numbers = block[r - from];
            for (Int i = x.n / PART * PART; i < x.n; i++)
                for (Int o = 0; o < count; o++)
                    numbers[o] = std::fma(w.one(begin + o, i), x.wide[r * x.n + i], numbers[o]);
            w.scale_up(begin, count, numbers);
            y.put(r, begin, count, numbers);
        }
    }
}
#else
constexpr Int MANY = INT64_MAX;  // without long vectors it is not faster
#endif

// Outputs begin … end for all rows; of many rows, at most BLOCK outputs.
template <class W>
void either(const W &w, Int begin, Int end, const Rows &x, Int rows, const Target &y, float *room) {
#ifdef __AVX512F__
    if (rows > MANY) return product_of_many(w, begin, end, x, rows, y, room);
#endif
    (void)room;
    product(w, begin, end, x, rows, y);
}

void multiply(const Matrix &m, Int begin, Int end, const Rows &x, Int rows, const Target &y, float *room) {
    if (m.kind == FP32) either(Fp32(m), begin, end, x, rows, y, room);
    if (m.kind == BF16) either(Bf16(m), begin, end, x, rows, y, room);
    if (m.kind == INT8) either(Int8(m), begin, end, x, rows, y, room);
    if (m.kind == INT4) either(Int4(m), begin, end, x, rows, y, room);
}

}  // namespace
