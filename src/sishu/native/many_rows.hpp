// Products of a matrix with many rows of numbers, for which multiplying is what takes the time.
//
// Weights and rows are first laid out anew, so that a vector holds what sixteen outputs have in one place of a
// part (products.hpp). What the places give is then joined in the order in which `sum` joins the lanes of a
// vector: a row gives the same, to the last bit, as it gives among few.

#pragma once

#include "products.hpp"

namespace {

constexpr Int MANY = 16;    // rows above which this is faster
constexpr Int BLOCK = 96;   // outputs that are computed for all rows before those that follow, at most
constexpr Int ABREAST = 8;  // rows that are computed at once

// How many vectors some rows take when they are laid out anew.
template <class Part> constexpr Int vectors(Int inputs) {
    return inputs / PART * LANES * Int(sizeof(Part) / sizeof(Vec));
}

// Sixteen rows laid out anew: for each place of a part, in the order of JOINED, for each part, and for each half of
// it where halves are multiplied one after the other, the numbers of all rows. `part_of(row, i)` is the part at
// input i; rows from `count` on are zero.
template <class Part, class PartOf> inline void lay_out(Int inputs, Int count, PartOf part_of, Bits *to) {
    constexpr int HALVES = sizeof(Part) / sizeof(Vec);
    const Int parts = inputs / PART;
    for (Int p = 0; p < parts; p++) {
        Bits v[HALVES][LANES] = {};
        auto take = [&](Int row) {
            const Part part = part_of(row, p * PART);
            for (int h = 0; h < HALVES; h++)
                std::memcpy(&v[h][row], (const char *)&part + h * sizeof(Vec), sizeof(Vec));
        };
        if (count == LANES)
            for (int row = 0; row < LANES; row++) take(row);
        else
            for (Int row = 0; row < count; row++) take(row);
        for (int h = 0; h < HALVES; h++) {
            transpose(v[h]);
            for (Int i = 0; i < LANES; i++) to[(i * parts + p) * HALVES + h] = v[h][JOINED[i]];
        }
    }
}

// What is not inlined would keep its sums in memory.
#define ALWAYS_INLINE inline __attribute__((always_inline))

// Sums of R rows for the outputs of O vectors.
template <class Part, int O, int R> struct Sums {
    const Bits *const *w;  // O times `length` vectors a place
    const uint32_t *x;     // the same of rows
    const Int length;
    typedef Vec Acc[R][O];

    static inline void add(Acc &acc, const Acc &more) {
        for (int r = 0; r < R; r++)
            for (int o = 0; o < O; o++) acc[r][o] += more[r][o];
    }

    ALWAYS_INLINE void place(int place, Acc &acc) const {
        const uint32_t *row = x + place * length * LANES;
        for (int r = 0; r < R; r++)
            for (int o = 0; o < O; o++) acc[r][o] = Vec{};
        for (Int i = place * length; i < (place + 1) * length; i++, row += LANES) {
            Vec weights[O];
            for (int o = 0; o < O; o++) weights[o] = (Vec)w[o][i];
            for (int r = 0; r < R; r++) {
                const Vec number = held(each(row[r]));
                for (int o = 0; o < O; o++) acc[r][o] = Part::times(weights[o], number, acc[r][o]);
            }
        }
    }

    // Of four places, and of four times four. Whatever waits in memory costs time, so little does.
    ALWAYS_INLINE void four(int from, Acc &acc) const {
        Acc first, third;
        place(from, first);
        place(from + 1, acc);
        add(first, acc);
        place(from + 2, third);
        place(from + 3, acc);
        add(acc, third);
        add(acc, first);
    }

    ALWAYS_INLINE void all(Acc &acc) const {
        Acc waiting[2];
        for (int quarter = 0; quarter < 4; quarter++) {
            four(4 * quarter, acc);
            if (quarter % 2) add(acc, waiting[0]);
            if (quarter == 3) add(acc, waiting[1]);
            std::memcpy(waiting[quarter % 2], acc, sizeof acc);
        }
    }
};

template <int O, class Part>
inline void abreast(const Bits *const *w, const uint32_t *x, Int length, float (*to)[BLOCK]) {
    Vec acc[ABREAST][O];
    Sums<Part, O, ABREAST>{w, x, length}.all(acc);
    for (int r = 0; r < ABREAST; r++) std::memcpy(to[r], acc[r], sizeof acc[r]);
}

// Outputs begin … end, at most BLOCK, for all rows.
template <class W>
void product_of_many(const W &w, Int begin, Int end, const Rows &x, Int rows, const Target &y, Bits *room) {
    typedef typename W::Part Part;
    const Int size = vectors<Part>(x.n), length = size / LANES, all = ceiling(end - begin, LANES);
    const char *following = (const char *)w.at(end, 0);  // weights that are needed next
    const Int ahead = (following - (const char *)w.at(begin, 0)) / rows;
    const Bits *weights[BLOCK / LANES];
    for (Int o = begin, v = 0; o < end; o += LANES, v++) {
        auto part_of = [&](Int row, Int i) { return w.part(o + row, i); };
        lay_out<Part>(x.n, std::min(end - o, LANES), part_of, room + v * size);
        weights[v] = room + v * size;
    }
    for (Int row = 0; row < rows; row += ABREAST) {
        const Int count = std::min(rows - row, ABREAST);
        const uint32_t *numbers = (const uint32_t *)(x.laid_out + row / LANES * size) + row % LANES;
        for (Int r = 0; r < count; r++) fetch_ahead(y.at(row + r, begin), end - begin);
        for (Int i = row * ahead; i < (row + count) * ahead; i += 64) __builtin_prefetch(following + i);
        float block[ABREAST][BLOCK];
        Int v = 0;
        for (; v + 2 <= all; v += 2)
            abreast<2, Part>(weights + v, numbers, length, (float(*)[BLOCK]) & block[0][v * LANES]);
        if (v < all) abreast<1, Part>(weights + v, numbers, length, (float(*)[BLOCK]) & block[0][v * LANES]);
        for (Int r = 0; r < count; r++) {
            for (Int i = x.n / PART * PART; i < x.n; i++)
                for (Int o = begin; o < end; o++)
                    block[r][o - begin] = std::fma(w.one(o, i), x.wide[(row + r) * x.n + i], block[r][o - begin]);
            w.scale_up(begin, end - begin, block[r]);
            y.put(row + r, begin, end - begin, block[r]);
        }
    }
}

// Where a thread lays weights out.
Numbers room_for_weights(Int inputs) { return Numbers(BLOCK / LANES * vectors<Wide>(inputs) * LANES); }

// Outputs begin … end for all rows; of many rows, at most BLOCK outputs.
template <class W>
void either(const W &w, Int begin, Int end, const Rows &x, Int rows, const Target &y, Bits *room) {
    if (x.laid_out)
        product_of_many(w, begin, end, x, rows, y, room);
    else
        product(w, begin, end, x, rows, y);
}

void multiply(const Matrix &m, Int begin, Int end, const Rows &x, Int rows, const Target &y, Bits *room) {
    if (m.kind == FP32) either(Fp32(m), begin, end, x, rows, y, room);
    if (m.kind == BF16) either(Bf16(m), begin, end, x, rows, y, room);
    if (m.kind == INT8) either(Int8(m), begin, end, x, rows, y, room);
    if (m.kind == INT4) either(Int4(m), begin, end, x, rows, y, room);
}

}  // namespace
