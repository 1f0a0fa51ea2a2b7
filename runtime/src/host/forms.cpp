#include "forms.h"

#include <cstdint>
#include <limits>

namespace memvp
{
namespace
{

Json::Type typeOf(Form const& form)
{
    switch (form.kind)
    {
    case Form::Kind::kLIST:
    case Form::Kind::kPAIR: return Json::Type::kARRAY;
    case Form::Kind::kMEMBERS:
    case Form::Kind::kNAMES: return Json::Type::kOBJECT;
    default: return form.type;
    }
}

bool isLength(std::int64_t number)
{
    return number >= 0 && number <= std::numeric_limits<std::int32_t>::max();
}

} // namespace

Form typed(Json::Type type)
{
    return {Form::Kind::kTYPE, type, {}, {}};
}

Form length()
{
    return {Form::Kind::kLENGTH, Json::Type::kINTEGER, {}, {}};
}

Form anyOf(std::vector<Form> parts)
{
    return {Form::Kind::kANY_OF, Json::Type::kNULL, std::move(parts), {}};
}

Form listOf(Form part)
{
    return {Form::Kind::kLIST, Json::Type::kARRAY, {std::move(part)}, {}};
}

Form pairOf(Form first, Form second)
{
    return {Form::Kind::kPAIR, Json::Type::kARRAY, {std::move(first), std::move(second)}, {}};
}

Form membersOf(std::vector<std::pair<std::string, Form>> members)
{
    Form form{Form::Kind::kMEMBERS, Json::Type::kOBJECT, {}, {}};
    for (auto& [name, part] : members)
    {
        form.names.push_back(std::move(name));
        form.parts.push_back(std::move(part));
    }
    return form;
}

Form namesTo(Form part)
{
    return {Form::Kind::kNAMES, Json::Type::kOBJECT, {std::move(part)}, {}};
}

std::string fault(Json const& value, Form const& form, std::string const& where)
{
    if (form.kind == Form::Kind::kANY_OF)
    {
        std::string first;
        for (auto const& part : form.parts)
        {
            auto const found = fault(value, part, where);
            if (found.empty())
            {
                return "";
            }
            first = first.empty() ? found : first;
        }
        return first;
    }
    bool const good = value.is(typeOf(form)) && (form.kind != Form::Kind::kLENGTH || isLength(value.integer()))
        && (form.kind != Form::Kind::kPAIR || value.array().size() == form.parts.size());
    if (!good)
    {
        return where + " is not what it should be";
    }
    std::string found;
    switch (form.kind)
    {
    case Form::Kind::kLIST:
    case Form::Kind::kPAIR:
        for (std::size_t index = 0; index < value.array().size() && found.empty(); ++index)
        {
            auto const& part = form.parts[index % form.parts.size()];
            found = fault(value.array()[index], part, where + "[" + std::to_string(index) + "]");
        }
        return found;
    case Form::Kind::kNAMES:
        for (auto const& [name, held] : value.members())
        {
            found = found.empty() ? fault(held, form.parts[0], where + "." + name) : found;
        }
        return found;
    case Form::Kind::kMEMBERS: break;
    default: return "";
    }
    auto const prefix = where.empty() ? "" : where + ".";
    for (auto const& name : form.names)
    {
        if (!value.find(name))
        {
            return prefix + name + " is missing";
        }
    }
    for (std::size_t index = 0; index < form.names.size() && found.empty(); ++index)
    {
        found = fault(value.at(form.names[index]), form.parts[index], prefix + form.names[index]);
    }
    return found;
}

} // namespace memvp
