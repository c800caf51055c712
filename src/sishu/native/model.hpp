// A decoder and the tokens of a step, laid out as sishu.native.decode has it.

#pragma once

#include "products.hpp"

struct Norm {  // RMSNorm, or LayerNorm where there is a bias
    const float *weight, *bias;
    double eps;
};

struct Layer {
    Norm attention_norm, query_norm, key_norm, mlp_norm;  // those of queries and keys may be none
    Matrix joined, output, up, down;                      // queries, keys, values; gate and up where gated
    Int window;                                           // positions seen, or 0 for all
};

enum Activation : Int { SILU, GELU, GELU_TANH, RELU };

struct Model {
    Int layers, width, heads, kv_heads, head_width, hidden, gated, activation;
    const Layer *layer;
    Norm norm;
    Matrix head;
    float *keys, *values;  // (layers, kv_heads, slots, head_width)
    Int slots, block_size;
};

constexpr Int QUERIES = 48;  // of all heads that share keys, looked up together at most

struct Group {  // neighbouring tokens of one text, with at most QUERIES queries or one token
    Int row, count;
};

struct Step {
    Int rows, blocks_per_text, threads, answers, groups;
    float *x;                 // (rows, width), embeddings; overwritten
    const float *cos, *sin;   // (rows, head_width / 2) or none
    const Int *seen;          // (rows,): positions up to and with this token
    const Int *text;          // (rows,): which text's token this is
    const Int *blocks;        // (texts, blocks_per_text)
    const Group *group;       // (groups,)
    const Int *wanted;        // (answers,): rows whose logits are wanted
    float *logits;            // (answers, outputs of the head)
};
