// What tokens read of their texts.
//
// Keys and values are first laid out so that a vector holds the same number of sixteen keys, or sixteen numbers
// of a value; then nothing is added up across a vector. Where the weights are smaller than float32 and the
// processor multiplies pairs of bfloat16, queries, keys, values and shares are rounded to them, sums are not.

#pragma once

#include "arithmetic.hpp"
#include "model.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

namespace {

// A vector of up to 16 · EACH numbers, of which so many are there.
template <class Part> inline Bits some(const float *from, Int count) {
    if (count < LANES * Part::EACH) {
        float numbers[PART] = {};
        std::memcpy(numbers, from, sizeof(float) * std::max(count, Int(0)));
        return some<Part>(numbers, PART);
    }
    if (Part::EACH == 1) return load<Bits>(from);
    const Halves halves[] = {to_bf16(load<Vec>(from)), to_bf16(load<Vec>(from + LANES))};
    return load<Bits>(halves);
}

// What a thread needs to attend. Part says whether numbers are multiplied one by one or in pairs.
template <class Part> class Attention {
    static constexpr Int EACH = Part::EACH;
    const Model &m;
    const Step &s;
    const Int size, steps, across;      // of a head: numbers, lanes of a key, vectors of a value
    const Int heads_each, most;         // query heads that share keys; queries of a group at most
    const Int longest;                  // text, in whole parts
    Numbers keys, values;               // laid out, of positions base … end of a text
    Numbers queries, scores, shares;    // a row for each query
    Int layer = -1, kv_head = -1, text = -1, base = 0, end = 0;
    Numbers factors;
    std::vector<float *> to;            // where what a query reads goes

    // Where a position's key and value lie in the cache.
    Int place(Int at) const {
        const Int *blocks = s.blocks + text * s.blocks_per_text;
        const Int slot = blocks[at / m.block_size] * m.block_size + at % m.block_size;
        return ((layer * m.kv_heads + kv_head) * m.slots + slot) * size;
    }

    void lay_out(Int until) {
        for (Int at = base + (end - base) / LANES * LANES; at < until; at += LANES) {
            const Int block = (at - base) / LANES, count = std::min(LANES, until - at);
            Int places[LANES];
            for (Int i = 0; i < count; i++) places[i] = place(at + i);
            for (Int k = 0; k < size; k += LANES * EACH) {
                Bits v[LANES] = {};
                for (Int i = 0; i < count; i++) v[i] = some<Part>(m.keys + places[i] + k, size - k);
                transpose(v);
                const Int step = k / EACH;
                std::memcpy(keys.bits() + block * steps + step, v, sizeof(Bits) * std::min(LANES, steps - step));
            }
            for (Int i = 0; i < LANES; i += EACH)
                for (Int k = 0; k < across; k++) {
                    const Int left = size - k * LANES;
                    Bits v = i < count ? some<Wide>(m.values + places[i] + k * LANES, left) : Bits{};
                    if (EACH == 2) {
                        Bits next = i + 1 < count ? some<Wide>(m.values + places[i + 1] + k * LANES, left) : Bits{};
                        v = __builtin_convertvector(to_bf16((Vec)v), Bits) |
                            __builtin_convertvector(to_bf16((Vec)next), Bits) << 16;
                    }
                    values.bits()[((at - base + i) / EACH) * across + k] = v;
                }
        }
        end = std::max(end, until);
    }

    // Positions after `base` that query number i of a group sees, or one behind the last.
    Int seen(const Group &group, Int i) const { return s.seen[group.row + i / heads_each] - base; }

    // Products of R queries from i on with the keys that they see, C vectors of keys at a time.
    template <int R, int C> void score(const Group &group, Int i, Int &block) {
        const Int blocks = ceiling(seen(group, i + R - 1), LANES), row = ceiling(steps, LANES) * LANES;
        const uint32_t *query = (const uint32_t *)queries.bits() + i * row;
        for (; block + C <= blocks; block += C) {
            Vec acc[R][C] = {};
            const Vec *key = (const Vec *)keys.bits() + block * steps;
            for (Int k = 0; k < steps; k++) {
                Vec numbers[C];
                for (int c = 0; c < C; c++) numbers[c] = key[c * steps + k];
                for (int r = 0; r < R; r++) {
                    const Vec number = held(each(query[r * row + k]));
                    for (int c = 0; c < C; c++) acc[r][c] = Part::times(numbers[c], number, acc[r][c]);
                }
            }
            for (int r = 0; r < R; r++) std::memcpy(&scores[(i + r) * longest + block * LANES], acc[r], sizeof acc[r]);
        }
    }

    // Makes the scores from … to shares, those around them up to `until` zero; one over the sum of the shares.
    float soften(Int i, Int from, Int to, Int until) {
        float *score = &scores[i * longest];
        auto seen = [&](Int at) {
            if (at >= from && at + LANES <= to) return load<Vec>(&score[at]);
            const Whole place = int32_t(at) + Whole{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
            return ((place >= int32_t(from)) & (place < int32_t(to))) ? load<Vec>(&score[at]) : whole(-INFINITY);
        };
        Vec most = whole(-INFINITY), total = {};
        for (Int at = 0; at < until; at += LANES) most = larger(most, seen(at));
        const float highest = greatest(most), scale = 1 / std::sqrt(float(size));
        for (Int at = 0; at < until; at += LANES) {
            const Vec v = exponential_share(seen(at), highest, scale);
            total += v;
            if (EACH == 1) {
                std::memcpy(&score[at], &v, sizeof v);
            } else {
                const Halves halves = to_bf16(v);
                std::memcpy(&shares[i * longest + at / EACH], &halves, sizeof halves);
            }
        }
        return 1 / sum(total);
    }

    // Values times shares, added up: vectors k … k + N for R queries from i on.
    template <int R, int N> void gather(const Group &group, Int i, Int k) const {
        const Int until = ceiling(seen(group, i + R - 1), LANES) * LANES / EACH;
        const uint32_t *share = (const uint32_t *)(EACH == 1 ? scores : shares).bits() + i * longest;
        const Vec *value = (const Vec *)values.bits() + k;
        Vec acc[R][N] = {};
        for (Int at = 0; at < until; at++, value += across) {
            Vec numbers[N];
            for (int n = 0; n < N; n++) numbers[n] = value[n];
            for (int r = 0; r < R; r++) {
                const Vec number = held(each(share[r * longest + at]));
                for (int n = 0; n < N; n++) acc[r][n] = Part::times(numbers[n], number, acc[r][n]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) acc[r][n] *= factors[i + r];
        for (int r = 0; r < R; r++)
            std::memcpy(to[i + r] + k * LANES, acc[r], sizeof(float) * std::min(N * LANES, size - k * LANES));
    }

    template <int R> void some_queries(const Group &group, Int window, Int &i) {
        Int block = 0;
        score<R, R <= 4 ? 4 : 2>(group, i, block);
        score<R, 1>(group, i, block);
        for (Int r = i; r < i + R; r++) {
            const Int last = seen(group, r), until = ceiling(seen(group, i + R - 1), LANES) * LANES;
            factors[r] = soften(r, window ? std::max(Int(0), last - window) : 0, last, until);
        }
        Int k = 0;
        for (; k + 4 <= across; k += 4)
            for (Int r = 0; r < R; r += std::min(R, 4)) gather<std::min(R, 4), 4>(group, i + r, k);
        for (; k < across; k++)
            for (Int r = 0; r < R; r += std::min(R, 4)) gather<std::min(R, 4), 1>(group, i + r, k);
        i += R;
    }

    bool answers(const Group &group) const {  // where the wanted rows are in ascending order
        const Int *first = std::lower_bound(s.wanted, s.wanted + s.answers, group.row);
        return first < s.wanted + s.answers && *first < group.row + group.count;
    }

  public:
    Attention(const Model &model, const Step &step)
        : m(model), s(step), size(m.head_width), steps(ceiling(size, EACH)), across(ceiling(size, LANES)),
          heads_each(m.heads / m.kv_heads), most(std::max(QUERIES, heads_each)),
          longest(ceiling(*std::max_element(s.seen, s.seen + s.rows) + LANES, PART) * PART),
          keys(longest * steps), values(longest / EACH * across * LANES),
          queries(most * ceiling(steps, LANES) * LANES), scores(most * longest),
          shares(EACH == 1 ? 0 : most * longest), factors(most), to(most) {}

    // All texts and heads of a layer, which threads take from `next`: a few neighbouring tokens of a text and
    // the heads that share keys at a time. `heads`: rows of queries, keys, values; `read`: rows of what is read.
    // `fewer`: no more than what rows with answers read.
    void operator()(const Layer &l, Int number, float *heads, float *read, std::atomic<Int> &next, bool fewer) {
        const Int width = (m.heads + 2 * m.kv_heads) * size, lanes = ceiling(steps, LANES) * LANES;
        for (Int task; (task = next.fetch_add(1)) < s.groups * m.kv_heads;) {
            const Group &group = s.group[task % s.groups];
            if (fewer && !answers(group)) continue;
            const Int kv = task / s.groups, first = s.seen[group.row];
            const Int begin = l.window ? std::max(Int(0), first - l.window) / LANES * LANES : 0;
            if (layer != number || kv_head != kv || text != s.text[group.row] || base != begin)
                layer = number, kv_head = kv, text = s.text[group.row], base = end = begin;
            lay_out(s.seen[group.row + group.count - 1]);
            const Int count = group.count * heads_each;
            for (Int row = group.row; row < group.row + group.count; row++)
                fetch_ahead(heads + row * width + kv * heads_each * size, heads_each * size);
            for (Int i = 0; i < count; i++) {
                const Int row = group.row + i / heads_each, head = kv * heads_each + i % heads_each;
                float *query = heads + row * width + head * size;
                make_ready(l.query_norm, s, row, size, query);
                for (Int k = 0; k < size; k += LANES * EACH) {
                    const Bits numbers = some<Part>(query + k, size - k);
                    std::memcpy(&queries[i * lanes + k / EACH], &numbers, sizeof numbers);
                }
                to[i] = read + (row * m.heads + head) * size;
            }
            Int i = 0;
            while (i + 8 <= count) some_queries<8>(group, l.window, i);
            if (i + 4 <= count) some_queries<4>(group, l.window, i);
            if (i + 2 <= count) some_queries<2>(group, l.window, i);
            if (i < count) some_queries<1>(group, l.window, i);
        }
    }
};

}  // namespace
