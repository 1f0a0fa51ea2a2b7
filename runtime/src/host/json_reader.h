// Text -> Json, with the messages of Python's json.
#pragma once

#include "memvp/json.h"

#include <unordered_map>

namespace memvp
{

struct Json::Object
{
    std::vector<Member> members;
    std::unordered_map<std::string, std::size_t> places;
};

class JsonReader
{
public:
    explicit JsonReader(std::string_view text)
        : mText(text)
    {
    }

    Json read();

private:
    Json value(int depth);
    Json object(int depth);
    Json array(int depth);
    Json number();
    std::string string();
    std::uint32_t escaped(std::size_t begin);
    std::uint32_t fourDigits();
    void skipSpace();
    bool takes(char wanted);
    bool takesWord(std::string_view word);
    bool digitAt(std::size_t at) const;
    [[noreturn]] void fail(std::string const& what, std::size_t at) const;

    std::string_view mText;
    std::size_t mAt = 0;
};

} // namespace memvp
