// What the probes have in common: one JSON object a line in, one a line out.
#pragma once

#include "memvp/classify.h"
#include "memvp/errors.h"
#include "memvp/json.h"
#include "shapes.h"
#include "text.h"

#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

namespace memvp
{

inline std::string readFile(std::string const& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

template <typename Value>
void writeFile(std::string const& path, std::vector<Value> const& values)
{
    std::ofstream file(path, std::ios::binary);
    auto const size = static_cast<std::streamsize>(values.size() * sizeof(Value));
    file.write(reinterpret_cast<char const*>(values.data()), size);
}

inline std::string textJson(std::string const& text)
{
    std::string out = "\"";
    for (auto const byte : text)
    {
        char hex[8];
        std::snprintf(hex, sizeof hex, "\\u%04x", static_cast<unsigned char>(byte));
        bool const plain = static_cast<unsigned char>(byte) >= ' ' && byte != '"' && byte != '\\';
        out += plain ? std::string(1, byte) : std::string(hex);
    }
    return out + "\"";
}

inline std::string listJson(std::vector<std::string> const& texts)
{
    std::vector<std::string> words;
    for (auto const& text : texts)
    {
        words.push_back(textJson(text));
    }
    return "[" + joined(words) + "]";
}

inline Shape numbersOf(Json const& list)
{
    Shape found;
    for (auto const& number : list.array())
    {
        found.push_back(number.integer());
    }
    return found;
}

inline std::string textOr(Json const& object, char const* name, std::string const& otherwise)
{
    auto const* const found = object.find(name);
    return found && found->isString() ? found->string() : otherwise;
}

inline Image imageOf(Json const& given, std::string const& bytes)
{
    return {reinterpret_cast<std::uint8_t const*>(bytes.data()), static_cast<int>(given.at("height").integer()),
        static_cast<int>(given.at("width").integer()), 0};
}

// The bytes of the pictures are put into `kept`, and must stay there.
inline std::vector<Pair> pairsOf(Json const& list, std::vector<std::string>& kept)
{
    kept.reserve(4 * list.array().size());
    std::vector<Pair> pairs;
    for (auto const& each : list.array())
    {
        pairs.push_back({numbersOf(each.at("ids")), {}});
        for (auto const& picture : each.at("images").array())
        {
            kept.push_back(readFile(picture.at("rgb").string()));
            pairs.back().images.push_back(imageOf(picture, kept.back()));
        }
    }
    return pairs;
}

using Actions = std::map<std::string, std::function<std::string(Json const&)>>;

inline std::string answered(Actions const& actions, std::string const& line)
{
    auto const failed = [](char const* kind, std::exception const& error) {
        return std::string("{\"error\": ") + textJson(error.what()) + ", \"kind\": \"" + kind + "\"}";
    };
    try
    {
        auto const asked = Json::parse(line);
        return "{\"result\": " + actions.at(asked.at("do").string())(asked) + "}";
    }
    catch (NoProfile const& error)
    {
        return failed("NoProfile", error);
    }
    catch (InputError const& error)
    {
        return failed("InputError", error);
    }
    catch (EnvironmentLack const& error)
    {
        return failed("EnvironmentLack", error);
    }
    catch (VerdictError const& error)
    {
        return failed("VerdictError", error);
    }
    catch (std::exception const& error)
    {
        return failed("other", error);
    }
}

inline void answerLines(Actions const& actions)
{
    for (std::string line; std::getline(std::cin, line);)
    {
        std::cout << answered(actions, line) << std::endl;
    }
}

} // namespace memvp
