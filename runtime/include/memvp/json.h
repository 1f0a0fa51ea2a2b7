// JSON as a bundle's manifest is written: read strictly, kept in its order, written again in its canonical form.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace memvp
{

// An immutable value; copies are cheap. Strings are UTF-8; half a surrogate pair, which JSON can write as an escape, is
// kept in three bytes. Integers are of any size.
class Json
{
public:
    enum class Type
    {
        kNULL,
        kBOOL,
        kINTEGER,
        kREAL,
        kSTRING,
        kARRAY,
        kOBJECT
    };
    using Member = std::pair<std::string, Json>;

    // null
    Json() = default;

    // Throws JsonFault with what is wrong and where.
    static Json parse(std::string_view text);

    Type type() const noexcept
    {
        return mType;
    }
    bool is(Type type) const noexcept
    {
        return mType == type;
    }
    bool isNull() const noexcept
    {
        return mType == Type::kNULL;
    }
    bool isString() const noexcept
    {
        return mType == Type::kSTRING;
    }
    bool isInteger() const noexcept
    {
        return mType == Type::kINTEGER;
    }
    // An integer or a real number; no truth value.
    bool isNumber() const noexcept
    {
        return mType == Type::kINTEGER || mType == Type::kREAL;
    }

    // The value as what it is; each throws InputError where it is something else.
    bool boolean() const;
    // The nearest of 64 bits.
    std::int64_t integer() const;
    // Of an integer too.
    double real() const;
    std::string const& string() const;
    std::vector<Json> const& array() const;
    // In the order of the text; of a name that is there twice, the last value.
    std::vector<Member> const& members() const;

    // The member of an object, null where it has none of that name; throws where this is no object.
    Json const* find(std::string_view name) const;
    // The same; throws InputError where there is none.
    Json const& at(std::string_view name) const;

    // Sorted names, no spaces, ASCII: equal values have equal texts. Of an object, without the member `leftOut`.
    std::string canonical(std::string_view leftOut = {}) const;
    // As Python's repr() shows it; messages quote values so.
    std::string repr() const;

private:
    struct Object;
    friend class JsonReader;

    void write(std::string& text, std::string_view leftOut = {}) const;

    Type mType = Type::kNULL;
    bool mBool = false;
    double mReal = 0;
    // Of a string, or the digits of an integer.
    std::string mText;
    std::shared_ptr<std::vector<Json> const> mArray;
    std::shared_ptr<Object const> mObject;
};

// Text that is no JSON. The message is that of Python's json, such as "Expecting value: line 1 column 1 (char 0)".
class JsonFault : public std::exception
{
public:
    explicit JsonFault(std::string message)
        : mMessage(std::move(message))
    {
    }
    char const* what() const noexcept override
    {
        return mMessage.c_str();
    }

private:
    std::string mMessage;
};

} // namespace memvp
