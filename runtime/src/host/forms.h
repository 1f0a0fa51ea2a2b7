// Does JSON from outside have the shape that it should have?
#pragma once

#include "memvp/json.h"

#include <string>
#include <utility>
#include <vector>

namespace memvp
{

// What a value should be: a type, a length, one of several forms, a list of one form, or an object with these members
// (more may be there) or with any names.
struct Form
{
    enum class Kind
    {
        kTYPE,
        kLENGTH,
        kANY_OF,
        kLIST,
        kPAIR,
        kMEMBERS,
        kNAMES
    };

    Kind kind = Kind::kTYPE;
    Json::Type type = Json::Type::kNULL;
    std::vector<Form> parts;
    std::vector<std::string> names;
};

Form typed(Json::Type type);
// A whole number from 0 to 2^31 - 1, as TensorRT's tensors have at most: sums and products of a few stay in 64 bits.
Form length();
Form anyOf(std::vector<Form> parts);
Form listOf(Form part);
// A list of exactly two.
Form pairOf(Form first, Form second);
Form membersOf(std::vector<std::pair<std::string, Form>> members);
Form namesTo(Form part);

// What is the first that is missing or of the wrong type, empty where `value` has the form; where is its name.
std::string fault(Json const& value, Form const& form, std::string const& where = "");

} // namespace memvp
